"""Training within a budget: the session that the planner makes of the user's."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from cxv_jax.memory_plan.choose import ENOUGH, GB, Plan, recommend, rounded_up
from cxv_jax.memory_plan.planner import Planner
from cxv_jax.session import Session

FIELDS = ("model.dtype", "model.remat", "micro_batch", "eval_batch_size")  # What a plan sets.


def overrides(config: ConfigDict, planned: ConfigDict) -> list[str]:
    """The assignments (``config.micro_batch=16``) that turn ``config`` into ``planned``."""
    old, new = _flat(config), _flat(planned)
    return [f"config.{name}={new[name]}" for name in FIELDS if old.get(name) != new.get(name)]


def fit_session(session: Session, say: Callable[[str], None]) -> Session:
    """The session to train with, so that ``config.memory_gb`` a device is enough.

    What changes is the memory and not the mathematics: ``micro_batch``, ``model.remat`` and, if
    evaluation would need more than training, ``eval_batch_size``. Without ``memory_gb`` this is
    ``session`` itself.

    Args:
      session: its own ``micro_batch`` and ``model.remat`` are replaced.
      say: takes one line, the choice.

    Raises:
      InputError: if nothing fits, naming the smallest need.
    """
    config = session.config
    if not config.memory_gb:
        return session
    planner, budget = Planner(session), config.memory_gb * GB
    chosen = _least_recomputation(planner, budget)
    eval_batch_size = planner.eval_batch_size(budget)
    fitted = planner.fitted(*chosen[:3]).with_(eval_batch_size=eval_batch_size)
    changes = " ".join(overrides(config, fitted.config)) or "the config as it is"
    say(f"memory_gb={config.memory_gb:g}: {changes}; {rounded_up(chosen.peak)} GB a device")
    return fitted


def _least_recomputation(planner: Planner, budget: float) -> Plan:
    """As :func:`recommend` without times, compiling no more than that takes."""
    own = planner.config.model.dtype
    plans = []
    for dtype, remat in planner.choices():
        if dtype == own:
            plans.append(planner.plan(dtype, remat, budget))
            enough = min(ENOUGH, planner.config.batch_size)
            if plans[-1].peak <= budget and plans[-1].micro_batch >= enough:
                break
    return recommend(plans, budget, {})


def _flat(config: ConfigDict) -> dict[str, Any]:
    return {**config, **{f"model.{name}": value for name, value in config.model.items()}}
