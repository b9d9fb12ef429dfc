"""Training within a budget: the config that the planner makes of the user's."""

from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxv_jax.data.loader import Loader
from cxv_jax.data.sources import Dataset
from cxv_jax.plan.choose import ENOUGH, GB, Plan, recommend, rounded_up
from cxv_jax.plan.planner import Planner, override

FIELDS = ("model.dtype", "model.remat", "micro_batch", "eval_batch_size")  # What a plan sets.


def overrides(config: ConfigDict, planned: ConfigDict) -> list[str]:
    """The command-line arguments that turn ``config`` into ``planned``."""
    old, new = _flat(config), _flat(planned)
    return [f"--config.{name}={new[name]}" for name in FIELDS if old.get(name) != new.get(name)]


def apply(config: ConfigDict, mesh: Mesh, dataset: Dataset, loader: Loader) -> ConfigDict:
    """The config to train with, so that ``config.memory_gb`` a device is enough; prints the choice.

    What changes is the memory and not the mathematics: ``micro_batch``, ``model.remat`` and, if
    evaluation would need more than training, ``eval_batch_size``. Without ``memory_gb`` this is
    ``config`` itself.

    Args:
      config: of the run; its own ``micro_batch`` and ``model.remat`` are replaced.
      mesh: from ``sharding.create_mesh``.
      dataset: from ``build.load_dataset``.
      loader: of the training split.

    Raises:
      InputError: if nothing fits, naming the smallest need.
    """
    if not config.memory_gb:
        return config
    planner, budget = Planner(config, mesh, dataset, loader), config.memory_gb * GB
    chosen = _least_recomputation(planner, budget)
    planned = override(config, *chosen[:3])
    planned.eval_batch_size = planner.eval_batch_size(budget)
    if jax.process_index() == 0:
        changes = " ".join(overrides(config, planned)) or "the config as it is"
        print(f"memory_gb={config.memory_gb:g}: {changes}; {rounded_up(chosen.peak)} GB a device")
    return planned


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
