"""What training changes: one pytree, checkpointed as a whole."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jax import Array

from cxv_jax import optimizer


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: int32, optimizer steps done, over both phases.
      params: trainable parameters.
      batch_stats: running statistics of BatchNorm, ``{}`` without it.
      constants: Performer projections, ``{}`` without them; never trained.
      opt_state: state of the running phase's optimizer.
      ema: what is evaluated in place of ``params`` and ``batch_stats``, their average; or None.
      phase_step: int32, optimizer steps of the running phase.
    """

    step: Any
    params: Any
    batch_stats: Any
    constants: Any
    opt_state: optax.OptState
    ema: Any
    phase_step: Any = 0

    def variables(self) -> dict[str, Any]:
        """What evaluation applies: the average where there is one."""
        weights = self.ema or {"params": self.params, "batch_stats": self.batch_stats}
        return {**weights, "constants": self.constants}


def create(
    model: nn.Module,
    tx: optax.GradientTransformation,
    rng: Array,
    image_shape: tuple[int, int, int],
    *,
    ema: bool = False,
    start: Mapping[str, Any] | None = None,
) -> TrainState:
    """Initial state of ``model`` for images of ``image_shape`` (height, width, channels).

    ``start``: arrays in place of the initial ones, by path (``params/head/bias``).
    """
    variables = model.init(rng, jnp.zeros((1, *image_shape)), train=False)
    initial = flax.traverse_util.flatten_dict(variables, sep="/")
    variables = flax.traverse_util.unflatten_dict({**initial, **(start or {})}, sep="/")
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        phase_step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        constants=variables.get("constants", {}),
        opt_state=tx.init(params),
        # A copy: the donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None,
    )


def hand_over(
    state: TrainState, tx: optax.GradientTransformation, *, ema: bool = False, fresh: bool = True
) -> TrainState:
    """The next phase's first state from the last one's: its evaluated weights go on.

    The step count stays; the optimizer state is a fresh one of ``tx``, or without ``fresh`` the
    last phase's. ``ema``: whether the next phase averages.
    """
    best = {name: x for name, x in state.variables().items() if name != "constants"}
    return dataclasses.replace(
        state,
        phase_step=jnp.zeros((), jnp.int32),
        params=best["params"],
        batch_stats=best["batch_stats"],
        opt_state=optimizer.hand_over(tx, best["params"]) if fresh else state.opt_state,
        ema=jax.tree.map(jnp.copy, best) if ema else None,
    )


def average(
    ema: Any,
    params: Any,
    batch_stats: Any,
    decay: float,
    steps: Array,
    since: int | None = None,
) -> dict[str, Any]:
    """One step of the average: ``ema <- d ema + (1 - d) weights``; ``steps``: t, done in the phase.

    Moving, unbiased from the first: ``d = min(decay, (1 + t) / (10 + t))``. The start weights count
    for a tenth after the first step and for next to nothing after a few, so that short phases are
    averaged as well as long ones. With ``since`` the plain mean of the weights after each step from
    then on, ``d = n / (n + 1)`` with ``n = t - since``; before that the weights themselves.

    Source: TensorFlow's ``ExponentialMovingAverage(num_updates=t)``; the mean: Izmailov et al.
    2018, arXiv 1803.05407 (which computes BatchNorm's statistics anew; here they are averaged).
    """
    if since is None:
        kept = jnp.minimum(decay, (1 + steps) / (10 + steps))
    else:
        count = jnp.maximum(steps - since, 0)
        kept = count / (count + 1)
    return optax.incremental_update({"params": params, "batch_stats": batch_stats}, ema, 1 - kept)
