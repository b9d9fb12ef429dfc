"""The training step: what changes within a phase."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxv_jax import state
from cxv_jax.state import TrainState
from cxv_jax.step import StepConfig, augmented, train_step

CONFIG = StepConfig(
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    num_classes=2,
    label_smoothing=0.0,
    ema_decay=0.0,
    augment=lambda rng, images, targets: (images + jnp.uint8(5), targets),
    redraw=lambda rng, constants: constants,
    redraw_every=0,
)
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


def at(phase_step: Any) -> TrainState:
    return TrainState(0, {}, {}, {}, (), None, phase_step)


def test_the_last_steps_of_a_phase_go_with_light_augmentation() -> None:
    light = CONFIG._replace(
        light=lambda rng, images, targets: (images + jnp.uint8(1), targets), light_from=3
    )

    @jax.jit
    def levels(phase_step: jax.Array) -> jax.Array:
        return augmented(light, jax.random.key(0), at(phase_step), jnp.asarray(IMAGES), jnp.eye(2))[
            0
        ]

    got = [float(levels(jnp.int32(n)).max()) for n in range(6)]
    np.testing.assert_array_equal(got, [5, 5, 5, 1, 1, 1])


def test_without_a_light_end_nothing_is_converted() -> None:
    images, _ = augmented(CONFIG, jax.random.key(0), at(0), jnp.asarray(IMAGES), jnp.eye(2))
    assert images.dtype == jnp.uint8


def test_a_state_that_changes_its_type_is_refused_when_traced() -> None:
    """It would be traced anew at every step."""
    model = nn.Sequential([lambda x, train: x.reshape(len(x), -1), nn.Dense(2)])
    batch = {"image": jnp.asarray(IMAGES), "label": jnp.zeros(2, jnp.int32)}
    rng = jax.random.key(0)

    def traced(growth: float) -> TrainState:
        tx = optax.GradientTransformation(
            lambda params: jnp.int32(0), lambda updates, count, _: (updates, count + growth)
        )
        first = jax.eval_shape(lambda: state.create(model, tx, rng, IMAGES.shape[1:]))
        return jax.eval_shape(partial(train_step, model, tx, CONFIG), first, rng, batch)[0]

    assert traced(1).opt_state.dtype == jnp.int32
    with pytest.raises(AssertionError, match="int32"):
        traced(0.5)
