"""A few training steps of a small model on some devices, for the tests that compare such runs."""

from functools import partial
from typing import Any

import jax
import numpy as np

from cxv_jax import augment, optimizer, sharding, state, step

BATCH, SIDE = 32, 8


def run(
    model: Any,
    count: int,
    *,
    rate: float,
    devices: int = 1,
    micro_batch: int = 0,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[state.TrainState, list[float], Any]:
    """The state after ``count`` steps of SGD on random images, losses, and the compiled step."""
    mesh, tx = sharding.create_mesh(devices=devices), optimizer.phase({"sgd": optimizer.sgd(rate)})
    config = step.StepConfig(
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_classes=10,
        label_smoothing=0.1,
        ema_decay=0.0,
        augment=augment.make(crop_padding=1, flip=True),
        redraw=lambda rng, constants: constants,
        redraw_every=0,
        micro_batch=micro_batch,
        class_weights=class_weights,
    )
    create = jax.jit(partial(state.create, model, tx, image_shape=(SIDE, SIDE, 3)))
    created = create(jax.random.key(0))
    placed = jax.device_put(created, sharding.state_sharding(created, mesh))
    rng = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    update = jax.jit(partial(step.train_step, model, tx, config), donate_argnums=0)
    draw, losses, compiled = np.random.default_rng(0), [], None
    for _ in range(count):
        batch = {
            "image": draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8),
            "label": draw.integers(0, 10, BATCH, dtype=np.int32),
        }
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
        assert batch["image"].sharding.shard_shape((BATCH, SIDE, SIDE, 3))[0] == BATCH // devices
        compiled = compiled or update.lower(placed, rng, batch).compile()
        placed, sums = compiled(placed, rng, batch)
        losses.append(float(sums["loss"]) / int(sums["count"]))
    return placed, losses, compiled
