"""Which micro-batch fits the memory that is there, and how fast it trains, told before training.

python -m experiments.plan --config=experiments/configs/digits.py:cpv --memory_gb=0.1
python -m experiments.plan --config=experiments/configs/cifar10.py:cnv --memory_gb=4 --static_only

Compiles the real train step for the devices at hand, in float32 and bfloat16, keeping all
activations (remat none) or computing those of the attention or of whole blocks again in the
backward pass. Prints a Markdown table and the overrides to paste. That takes minutes for a large
model, less when it is asked again; training with --config.memory_gb=4 makes the choice by itself.
"""

import sys
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from experiments import cli

if TYPE_CHECKING:
    from cxv_jax.plan import Plan, Planner

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, FILE.py:VARIANT.")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "Budget of one device, in 1e9 bytes (default: the config's, or all it has)."
)
STATIC_ONLY = flags.DEFINE_bool("static_only", False, "Time nothing, only compile.")

TITLES = ["dtype", "remat", "micro-batch", "predicted GB", "XLA's GB", "images/s"]


def main(argv: list[str]) -> None:
    """Print the table and what to do."""
    if CONFIG.value is None or argv:
        cli.fail("expected --config=FILE.py[:VARIANT] and nothing besides flags; see --help")
    from cxv_jax import build, plan, runs, sharding  # Late: --help must not wait for JAX.
    from cxv_jax.data.loader import device_memory
    from cxv_jax.errors import InputError

    config = CONFIG.value
    runs.check_config(config)
    available = device_memory()
    memory_gb = config.memory_gb or available / plan.GB
    memory_gb = memory_gb if MEMORY_GB.value is None else MEMORY_GB.value
    if memory_gb <= 0:
        raise InputError(f"--memory_gb={memory_gb:g} must be positive")
    budget = memory_gb * plan.GB
    mesh = sharding.create_mesh(config.fsdp)
    dataset = build.load_dataset(config)
    planner = plan.Planner(
        config, mesh, dataset, build.build_loader(config, mesh, dataset, "train")
    )

    plans, rates = [], {}
    for dtype, remat in planner.choices():
        print(f"compiling {dtype}, remat={remat}", file=sys.stderr, flush=True)
        plans.append(planner.plan(dtype, remat, budget))
        if plans[-1].peak <= min(budget, available) and not STATIC_ONLY.value:
            rates[plans[-1]] = planner.images_per_second(plans[-1])
    own = [each for each in plans if each.dtype == config.model.dtype and each.peak <= budget]
    best = plan.recommend(own or plans, budget, rates)
    print("\n".join(table(plans, rates, budget)))
    print("\n".join(advice(planner, best, budget)))


def table(plans: "list[Plan]", rates: "dict[Plan, float]", budget: float) -> list[str]:
    """The plans as a Markdown table, in GB; one that does not fit says what it needs."""
    lines = [TITLES, ["---", "---", *["---:"] * 4]]
    for each in plans:
        lines.append([each.dtype, each.remat, *_cells(each, rates, budget)])
    return [f"| {' | '.join(cells)} |" for cells in lines]


def advice(planner: "Planner", best: "Plan", budget: float) -> list[str]:
    """The conditions, and the overrides that make training follow the plan."""
    import jax

    from cxv_jax import plan

    config = planner.config
    planned = plan.override(config, best.dtype, best.remat, best.micro_batch)
    planned.eval_batch_size = planner.eval_batch_size(budget)
    device = jax.devices()[0]
    note = "; the process takes memory of its own besides" if device.platform == "cpu" else ""
    return [
        "",
        f"{config.model.name} on {planner.dataset.name}, batch {config.batch_size}, "
        f"{jax.device_count()} x {device.device_kind}, at most {budget / plan.GB:.4g} GB "
        f"(1e9 bytes) a device{note}.",
        "",
        "Recommended: " + " ".join(plan.overrides(config, planned) or ["the config as it is"]),
    ]


def _cells(each: "Plan", rates: "dict[Plan, float]", budget: float) -> list[str]:
    from cxv_jax.plan import rounded_up

    peak, rate = rounded_up(each.peak), rates.get(each)
    if each.peak > budget:
        return ["none fits", "", f"{peak} for {each.micro_batch}", ""]
    speed = "not timed" if rate is None else f"{rate:,.1f}"
    return [str(each.micro_batch), rounded_up(each.predicted), peak, speed]


if __name__ == "__main__":
    cli.run(main)
