"""SAM inside the training step: two gradients, whole or in parts, and one pass for BatchNorm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from cxv_jax import augment, optimizer, state, step
from cxv_jax.errors import InputError
from cxv_jax.parts import make_optimizer
from cxv_jax.phase import Phase
from tests.test_train import tiny_config

BATCH, CLASSES = 12, 3


class Linear(nn.Module):
    """A linear classifier, with or without BatchNorm before it."""

    norm: bool = False

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        x = x.reshape(len(x), -1)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(CLASSES)(x)


def run(tx: Any, steps: int, *, norm: bool = False, micro_batch: int = 0) -> state.TrainState:
    model = Linear(norm)
    config = step.StepConfig(
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        num_classes=CLASSES,
        label_smoothing=0.0,
        ema_decay=0.0,
        augment=augment.make(),
        redraw=lambda rng, constants: constants,
        redraw_every=0,
        micro_batch=micro_batch,
    )
    now = state.create(model, tx, jax.random.key(0), (2, 2, 3))
    for _ in range(steps):
        batch = {"image": jnp.asarray(IMAGES), "label": jnp.asarray(LABELS)}
        now, _ = jax.jit(lambda s, b: step.train_step(model, tx, config, s, jax.random.key(1), b))(
            now, batch
        )
    return now


DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (BATCH, 2, 2, 3), dtype=np.uint8)
LABELS = DRAW.integers(0, CLASSES, BATCH)


def sam(rate: Any) -> Any:
    return optimizer.phase({"sam": optimizer.by_name("sam", rate, {"rho": 0.2, "momentum": 0.5})})


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_a_step_follows_the_gradient_of_the_worst_point_near_by(micro_batch: int) -> None:
    """Softmax regression, whose gradients are written out."""
    x = (IMAGES.reshape(BATCH, -1) / 255 - 0.5) / 0.5
    x = np.concatenate([x, np.ones((BATCH, 1))], 1)
    start = state.create(Linear(), sam(0.3), jax.random.key(0), (2, 2, 3)).params["Dense_0"]
    w = np.concatenate([start["kernel"], start["bias"][None]])

    def gradient(w: Any) -> Any:
        return x.T @ (softmax(x @ w, 1) - np.eye(CLASSES)[LABELS]) / BATCH

    moment = 0
    for _ in range(3):
        here = gradient(w)
        moment = 0.5 * moment + gradient(w + 0.2 * here / np.linalg.norm(here))
        w = w - 0.3 * moment
    got = run(sam(0.3), 3, micro_batch=micro_batch).params["Dense_0"]
    np.testing.assert_allclose(got["kernel"], w[:-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got["bias"], w[-1], rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_those_of_the_weights_themselves() -> None:
    """One update of them a step, as by plain SGD."""
    plain = run(optimizer.phase({"sgd": optimizer.sgd(0.3)}), 1, norm=True)
    ours = run(sam(0.3), 1, norm=True)
    for got, want in zip(*map(jax.tree.leaves, (ours.batch_stats, plain.batch_stats)), strict=True):
        np.testing.assert_array_equal(got, want)
    assert optimizer.learning_rates(ours.opt_state) == {"sam": np.float32(0.3)}


def test_a_schedule_reaches_both_gradients() -> None:
    falling = optimizer.schedule("linear", 0.6, total_steps=2)
    ends = [run(sam(rate), 1).params for rate in (0.6, falling)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    later = [run(sam(rate), 3).params["Dense_0"]["kernel"] for rate in (0.6, falling)]
    assert np.abs(later[0] - later[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"clip_norm": 1.0}, "clip_norm must be 0"), ({"keep": "head"}, "empty phase2.keep")],
    ids=str,
)
def test_what_sam_cannot_do_is_refused(fields: dict[str, Any], words: str) -> None:
    config = tiny_config()
    config.phase2.update(optimizer="sam", **fields)
    with pytest.raises(InputError, match=words):
        make_optimizer(config, Phase.TWO, 5)
