"""Gradient accumulation: the update of the whole batch from its parts, in less memory."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from cxv_jax import augment, build, models, optimizer, sharding, state, step
from cxv_jax.errors import InputError
from experiments.configs import digits

TINY = {"embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
BATCH = 32


def mesh_of(devices: int) -> Mesh:
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((devices, 1), ("data", "fsdp"), types, devices=jax.devices()[:devices])


def step_config(micro_batch: int) -> step.StepConfig:
    return step.StepConfig(
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_classes=10,
        label_smoothing=0.1,
        ema_decay=0.0,
        augment=augment.make(crop_padding=1, flip=True),
        redraw=lambda rng, constants: constants,
        redraw_every=0,
        micro_batch=micro_batch,
    )


def updated(
    model: Any, micro_batch: int, devices: int = 1, side: int = 8, count: int = 1
) -> tuple[state.TrainState, list[float], Any]:
    """The state after ``count`` steps of SGD, their losses, and the compiled step."""
    mesh, tx = mesh_of(devices), optimizer.phase({"sgd": optimizer.sgd(0.1)})
    created = jax.jit(partial(state.create, model, tx, image_shape=(side, side, 3)))(
        jax.random.key(0)
    )
    placed = jax.device_put(created, sharding.state_sharding(created, mesh))
    draw, losses = np.random.default_rng(0), []
    batch = {
        "image": draw.integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8),
        "label": draw.integers(0, 10, BATCH, dtype=np.int32),
    }
    batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    rng = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
    update = jax.jit(partial(step.train_step, model, tx, step_config(micro_batch)))
    compiled = update.lower(placed, rng, batch).compile()
    for _ in range(count):
        placed, sums = compiled(placed, rng, batch)
        losses.append(float(sums["loss"]) / int(sums["count"]))
    return placed, losses, compiled


@pytest.mark.parametrize(("micro_batch", "share"), [(16, 0.6), (4, 0.2)])
def test_parts_update_like_the_whole_batch_in_less_memory(micro_batch: int, share: float) -> None:
    model = models.create("cltv", dropout=0.0, **TINY)
    whole, losses, step_of_all = updated(model, 0)
    parts, losses_of_parts, step_of_parts = updated(model, micro_batch)
    np.testing.assert_allclose(losses_of_parts, losses, rtol=1e-6)
    pairs = zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    temporary = [c.memory_analysis().temp_size_in_bytes for c in (step_of_parts, step_of_all)]
    assert temporary[0] < share * temporary[1]


def test_devices_cut_their_own_share() -> None:
    model = models.create("cpv", **TINY)  # With dropout: the masks do not depend on the devices.
    _, many, compiled = updated(model, 16, devices=8, count=3)
    _, one, _ = updated(model, 16, count=3)
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert many[-1] != many[0]
    text = compiled.as_text()
    moved = re.findall(r"= (\S+?)\{\S* (?:all-gather|all-to-all|collective-permute)\(", text)
    assert moved == ["f32[16,10]"]  # Logits, to be ranked; no images.


def test_parts_come_one_after_the_other_each_with_its_key() -> None:
    def gradient(params: Any, seen: Any, rng: jax.Array, part: Any) -> Any:
        draw = jax.random.uniform(rng)
        return params * part["image"].mean(), (10 * seen + part["image"][0], {"draw": draw})

    batch, rng = {"image": jnp.arange(1.0, 7.0)}, jax.random.key(0)
    seen, two = jnp.zeros(()), jnp.full((), 2.0)
    grads, (seen, sums) = step.accumulate(gradient, two, seen, rng, batch, 3)
    assert float(grads) == 2 * 3.5
    assert float(seen) == 123  # The parts are 1 and 4, 2 and 5, 3 and 6.
    draws = [float(jax.random.uniform(key)) for key in jax.random.split(rng, 3)]
    np.testing.assert_allclose(float(sums["draw"]), sum(draws), rtol=1e-6)


def test_a_micro_batch_that_devices_cannot_share_is_refused() -> None:
    config = digits.get_config("cltv")
    config.batch_size, config.micro_batch = 64, 4
    mesh, dataset = mesh_of(8), build.load_dataset(config)
    loader = build.build_loader(config, mesh, dataset, "train")
    tx = build.build_phase(config, "phase1", 1)
    model = models.create("cltv", **TINY)
    create = partial(build.create_state, config, model, (8, 8, 3), tx)
    template = build.template_of(create, mesh)
    with pytest.raises(InputError, match=r"micro_batch = 4 must be a multiple of .* devices, 8"):
        build.build_trainer(config, model, tx, "phase1", template, dataset, loader)
