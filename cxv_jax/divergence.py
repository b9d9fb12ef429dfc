"""A training that has left the finite numbers: stopped before anything is saved or selected."""

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from cxv_jax.errors import InputError
from cxv_jax.runs import Run


def check(run: Run, val_loss: float = 0.0) -> None:
    """Refuse to go on with a state, or a loss on the selection split, that is not finite.

    Costs one pass over the state, on the devices.

    Raises:
      InputError: see :func:`stop`.
    """
    if not math.isfinite(val_loss):
        stop(run, f"the {run.config.selection} loss is {val_loss}")
    if not bool(_all_finite(run.state)):
        stop(run, "weights are not finite")


def stop(run: Run, what: str) -> NoReturn:
    """End the run, and say where it was and what is left of it.

    Raises:
      InputError: always.
    """
    progress, phase = run.progress, run.progress.phase
    good = run.checkpointer.latest_step()
    left = "there is no checkpoint yet, so that a new run begins from its start"
    if good is not None:
        left = f"the checkpoint of step {good} is good"
    raise InputError(
        f"{what} in step {progress.steps} of epoch {progress.epoch + 1} ({phase}, learning rate "
        f"{run.learning_rate:.3g}; its batch is drawn from seed {run.config.seed} and epoch "
        f"{progress.epoch}); {left}: run the same command to see it again, lower config."
        f"{phase.key}.learning_rate (with fork=True), or look at the data"
    )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
