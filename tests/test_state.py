"""The training state: how it begins, its moving average in closed form, the handoff."""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from cxv_jax import augment, optimizer, state, step

SHAPE, CLASSES = (4, 3, 2), 5


class Small(nn.Module):
    """One layer with everything that a state holds: parameters, statistics, constants."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shift = self.variable("constants", "shift", lambda: jnp.full(CLASSES, 0.5))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.7)(x.reshape(len(x), -1))
        return nn.Dense(CLASSES)(x) + shift.value[None]


def decays(decay: float, steps: int) -> np.ndarray:
    """The decay of the average in each step of a phase: it ramps, so that few steps count too."""
    return np.array([min(decay, (1 + t) / (10 + t)) for t in range(steps)])


def average(start: Any, points: list[Any], decay: float) -> Any:
    """``prod(d) start + sum_t (1 - d_t) (d_(t+1) ... d_T) point_t``: no recurrence."""
    d = decays(decay, len(points))
    shares = [d.prod(), *((1 - d[t]) * d[t + 1 :].prod() for t in range(len(d)))]
    np.testing.assert_allclose(sum(shares), 1)
    return jax.tree.map(
        lambda *x: sum(w * np.asarray(v, np.float64) for w, v in zip(shares, x, strict=True)),
        *(start, *points),
    )


def sgd(rate: float = 0.5) -> optax.GradientTransformation:
    return optimizer.phase({"sgd": optimizer.sgd(rate)})


def create(tx: optax.GradientTransformation, *, ema: bool) -> state.TrainState:
    return state.create(Small(), tx, jax.random.key(0), SHAPE, ema=ema)


def train(
    start: state.TrainState,
    tx: optax.GradientTransformation,
    decay: float,
    seeds: range,
    since: int | None = None,
) -> list[state.TrainState]:
    """The states after each of some steps on random images."""
    config = step.StepConfig(
        mean=(0.5,) * 2,
        std=(0.5,) * 2,
        num_classes=CLASSES,
        label_smoothing=0.0,
        ema_decay=decay,
        augment=augment.make(),
        redraw=lambda rng, constants: constants,
        redraw_every=0,
        average_from=since,
    )
    update = jax.jit(partial(step.train_step, Small(), tx, config))
    states = [start]
    for seed in seeds:
        draw = np.random.default_rng(seed)
        batch = {
            "image": jnp.asarray(draw.integers(0, 256, (16, *SHAPE)), jnp.uint8),
            "label": jnp.asarray(draw.integers(0, CLASSES, 16), jnp.int32),
        }
        states.append(update(states[-1], jax.random.key(1), batch)[0])
    return states[1:]


def weights(of: state.TrainState) -> dict[str, Any]:
    return {"params": of.params, "batch_stats": of.batch_stats}


def assert_no_buffer_twice(tree: Any) -> None:
    """A state is donated to its update: no buffer may be given away twice."""
    arrays = jax.tree.leaves(tree)
    assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)


@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_the_average_is_its_closed_form_in_both_phases(decay: float) -> None:
    one, two = sgd(), sgd(0.1)
    start = create(one, ema=True)
    first = train(start, one, decay, range(12))
    for count in (1, 2, 12):
        want = average(weights(start), [weights(s) for s in first[:count]], decay)
        chex.assert_trees_all_close(first[count - 1].ema, want, rtol=0, atol=1e-6)
    handed = state.hand_over(first[-1], two, ema=True)
    second = train(handed, two, decay, range(12, 19))
    want = average(first[-1].ema, [weights(s) for s in second], decay)
    chex.assert_trees_all_close(second[-1].ema, want, rtol=0, atol=1e-6)
    moved = np.abs(second[-1].params["Dense_0"]["kernel"] - want["params"]["Dense_0"]["kernel"])
    assert moved.max() > 1e-3  # Else there was nothing to average.


def test_evaluation_sees_the_average_where_there_is_one() -> None:
    tx = sgd()
    for ema in (False, True):
        (after,) = train(create(tx, ema=ema), tx, 0.9, range(1))
        seen = after.variables()
        want = after.ema if ema else weights(after)
        chex.assert_trees_all_equal(seen, {**want, "constants": {"shift": np.full(5, 0.5)}})
        assert (after.ema is not None) is ema


def test_a_state_begins_at_step_0_and_shares_no_buffer() -> None:
    created = create(sgd(), ema=True)
    assert created.step.dtype == jnp.int32
    assert int(created.step) == 0
    chex.assert_trees_all_equal(created.ema, weights(created))
    assert_no_buffer_twice(created)


@pytest.mark.parametrize("ema", [False, True])
def test_the_handoff_takes_the_evaluated_weights_and_a_fresh_optimizer(ema: bool) -> None:
    one, two = optimizer.phase({"adamw": optimizer.adamw(0.1)}), sgd()
    last = train(create(one, ema=ema), one, 0.9, range(3))[-1]
    handed = state.hand_over(last, two, ema=ema)
    best = last.ema if ema else weights(last)
    chex.assert_trees_all_equal(weights(handed), best)
    chex.assert_trees_all_equal(handed.ema, best if ema else None)
    chex.assert_trees_all_equal(handed.constants, last.constants)
    assert int(handed.step) == 3
    chex.assert_trees_all_equal(handed.opt_state, two.init(best["params"]))
    if ema:
        assert_no_buffer_twice((handed.params, handed.batch_stats, handed.ema))
        averaged, current = (x.params["Dense_0"]["kernel"] for x in (handed, last))
        assert np.abs(averaged - current).max() > 1e-3


def test_the_mean_of_the_last_steps_is_numpys() -> None:
    states = train(create(sgd(), ema=True), sgd(), 0.0, range(7), since=3)
    chex.assert_trees_all_close(states[2].ema, weights(states[2]), rtol=1e-6)  # Not begun yet.
    want = jax.tree.map(lambda *x: np.mean(x, 0), *(weights(s) for s in states[3:]))
    chex.assert_trees_all_close(states[-1].ema, want, rtol=0, atol=1e-6)
    assert np.abs(
        states[-1].params["Dense_0"]["kernel"] - want["params"]["Dense_0"]["kernel"]
    ).max()


def test_an_optimizer_can_go_on_with_its_state() -> None:
    tx = optimizer.phase({"adamw": optimizer.adamw(0.1)})
    last = train(create(tx, ema=False), tx, 0.0, range(3))[-1]
    handed = state.hand_over(last, tx, ema=True, fresh=False)
    chex.assert_trees_all_equal(handed.opt_state, last.opt_state)
    chex.assert_trees_all_equal(handed.ema, weights(last))
    assert int(handed.phase_step) == 0
