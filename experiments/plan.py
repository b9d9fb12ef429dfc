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
from ml_collections import ConfigDict, config_flags

from cxv_jax.launch import command
from cxv_jax.tables import markdown
from experiments.configs import FOLDER

if TYPE_CHECKING:
    from cxv_jax.memory_plan import Plan, Planner

CONFIG = config_flags.DEFINE_config_file("config", None, "A preset or FILE.py, with :VARIANT.")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "Budget of one device, in 1e9 bytes (default: the config's, or all it has)."
)
STATIC_ONLY = flags.DEFINE_bool("static_only", False, "Time nothing, only compile.")

TITLES = ["dtype", "remat", "micro-batch", "predicted GB", "XLA's GB", "images/s"]


def main(argv: list[str]) -> None:
    """Print the table and what to do."""
    if CONFIG.value is None or argv:
        command.fail("expected --config=PRESET or FILE.py and nothing besides flags; see --help")
    from cxv_jax import memory_plan  # Late: --help must not wait for JAX.
    from cxv_jax.config import check_config
    from cxv_jax.session import Session

    config = CONFIG.value
    check_config(config)
    budget = budget_of(config)
    planner = memory_plan.Planner(Session.of(config))
    rates = survey(planner, budget)
    plans, timed = list(rates), {each: rate for each, rate in rates.items() if rate is not None}

    fastest = memory_plan.recommend(plans, budget, timed)
    print("\n".join([*table(rates, budget), "", *conditions(planner, budget), ""]))
    own = [each for each in plans if each.dtype == config.model.dtype and each.peak <= budget]
    best = memory_plan.recommend(own, budget, timed) if own else fastest
    eval_size = planner.eval_batch_size(budget)
    print("Recommended:", *flags_of(planner, best, eval_size))
    if fastest.dtype != best.dtype and fastest in timed:
        rounding = f"Faster, with the rounding of {fastest.dtype}:"
        print(rounding, *flags_of(planner, fastest, eval_size))


def budget_of(config: ConfigDict) -> float:
    """Bytes of one device: the flag's, else the config's, else all that there are."""
    from cxv_jax.errors import InputError
    from cxv_jax.machine import device_memory
    from cxv_jax.memory_plan import GB

    if MEMORY_GB.value is None:
        return config.memory_gb * GB or device_memory()
    if MEMORY_GB.value <= 0:
        raise InputError(f"--memory_gb={MEMORY_GB.value:g} must be positive")
    return MEMORY_GB.value * GB


def survey(planner: "Planner", budget: float) -> "dict[Plan, float | None]":
    """Every plan with its images/s; None where it was not timed, or does not fit."""
    from cxv_jax.machine import device_memory

    rates, most = {}, min(budget, device_memory())
    for dtype, remat in planner.choices():
        print(f"compiling {dtype}, remat={remat}", file=sys.stderr, flush=True)
        chosen = planner.plan(dtype, remat, budget)
        timed = chosen.peak <= most and not STATIC_ONLY.value
        rates[chosen] = planner.images_per_second(chosen) if timed else None
    return rates


def table(rates: "dict[Plan, float | None]", budget: float) -> list[str]:
    """The plans as a Markdown table, in GB; one that does not fit says what it needs."""
    cells = [[p.dtype, p.remat, *_cells(p, rate, budget)] for p, rate in rates.items()]
    return markdown(TITLES, cells, text_columns=2)


def conditions(planner: "Planner", budget: float) -> list[str]:
    """What the figures hold for."""
    import jax

    from cxv_jax.memory_plan import GB

    config, device = planner.config, jax.devices()[0]
    lines = [
        f"{config.model.name} on {planner.session.dataset.name}, batch {config.batch_size}, "
        f"{jax.device_count()} x {device.device_kind}, budget {budget / GB:.4g} GB (1e9 bytes) "
        "a device."
    ]
    if device.platform == "cpu":
        lines.append("The process needs memory of its own besides: Python, the compiler, its code.")
    return lines


def flags_of(planner: "Planner", chosen: "Plan", eval_batch_size: int) -> list[str]:
    """The flags that make training follow the plan, evaluation included."""
    from cxv_jax.memory_plan import overrides

    fitted = planner.fitted(chosen.dtype, chosen.remat, chosen.micro_batch)
    planned = fitted.with_(eval_batch_size=eval_batch_size).config
    changes = overrides(planner.config, planned)
    return [f"--{change}" for change in changes] or ["the config as it is"]


def _cells(each: "Plan", rate: float | None, budget: float) -> list[str]:
    from cxv_jax.memory_plan import rounded_up

    peak = rounded_up(each.peak)
    if each.peak > budget:
        return ["none fits", "", f"{peak} for {each.micro_batch}", ""]
    speed = "not timed" if rate is None else f"{rate:,.1f}"
    return [str(each.micro_batch), rounded_up(each.predicted), peak, speed]


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER)
