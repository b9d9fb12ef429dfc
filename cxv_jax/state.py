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
      ema: moving average of ``params`` and ``batch_stats``, or None.
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
        """What evaluation applies: the moving average where there is one."""
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


def hand_over(state: TrainState, tx: optax.GradientTransformation) -> TrainState:
    """The next phase's first state from the best state of the last: its evaluated weights go on.

    The step count stays; the optimizer state is a fresh one of ``tx``.
    """
    best = {name: x for name, x in state.variables().items() if name != "constants"}
    ema = jax.tree.map(jnp.copy, best) if state.ema is not None else None
    return dataclasses.replace(
        state,
        phase_step=jnp.zeros((), jnp.int32),
        params=best["params"],
        batch_stats=best["batch_stats"],
        opt_state=optimizer.hand_over(tx, best["params"]),
        ema=ema,
    )


def average(ema: Any, params: Any, batch_stats: Any, decay: float, steps: Array) -> dict[str, Any]:
    """One step of the moving average, unbiased from the first.

    ``ema <- d ema + (1 - d) weights`` with ``d = min(decay, (1 + t) / (10 + t))``, ``t`` the
    phase's steps before this one: the start weights count for a tenth after the first step and
    for next to nothing after a few, so that short phases are averaged as well as long ones.

    Source: TensorFlow's ``ExponentialMovingAverage(num_updates=t)``.
    """
    ramp = jnp.minimum(decay, (1 + steps) / (10 + steps))
    return optax.incremental_update({"params": params, "batch_stats": batch_stats}, ema, 1 - ramp)
