"""The memory planner: its predictions against XLA's report, its refusals, what training gets."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from cxv_jax import memory_plan as plan
from cxv_jax.errors import InputError
from cxv_jax.phase import Phase
from cxv_jax.session import Session
from experiments.configs import digits
from tests import quick_jax

ROOT = Path(__file__).parents[1]
TINY = {"embed_dim": 16, "depth": 1, "num_heads": 1, "head_dim": 8}


def tiny_config(**fields: Any) -> ConfigDict:
    config = digits.get_config("cpv")
    config.model.update(TINY)
    config.batch_size = 96
    config.data.subset_per_class = 30
    config.update(fields)
    return config


def session_of(config: ConfigDict) -> Session:
    return Session.of(config, devices=1)


@pytest.fixture(scope="module")
def planner() -> plan.Planner:
    return plan.Planner(session_of(tiny_config()))


# Peaks: a line, a line with a step (another algorithm for large sizes), a bend, a constant.
PEAKS = [
    lambda size: 100.0 + 10 * size,
    lambda size: 100.0 + 10 * size + 30 * (size > 16),
    lambda size: 100.0 + 0.1 * size**2,
    lambda size: 100.0 + 10 * max(size, 10),
    lambda size: 300.0,
]


@pytest.mark.parametrize("peak_of", PEAKS)
@pytest.mark.parametrize(
    "sizes", [[1], [1, 97], [8, 16, 24, 48], [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]]
)
@pytest.mark.parametrize("budget", [90, 111, 260, 300, 350, 10_000])
def test_fit_finds_the_largest_size_that_fits(peak_of: Any, sizes: list[int], budget: int) -> None:
    fitting = [size for size in sizes if peak_of(size) <= budget]
    size, _, peak = plan.fit(peak_of, sizes, budget)
    assert peak == peak_of(size)
    assert (size, peak <= budget) == ((fitting[-1], True) if fitting else (sizes[0], False))


@pytest.mark.parametrize(("budget", "expected"), [(1e9, [2048]), (2000, [2048, 1, 8, 128])])
def test_fit_asks_for_few_peaks_of_a_line(budget: float, expected: list[int]) -> None:
    asked = []

    def peak_of(size: int) -> float:
        asked.append(size)
        return 100.0 + 10 * size

    size, predicted, peak = plan.fit(peak_of, [2**i for i in range(12)], budget)
    assert (size, predicted) == (expected[-1], peak)
    assert asked == expected


def a_plan(remat: str, micro_batch: int, peak: float = 1e9, dtype: str = "float32") -> plan.Plan:
    return plan.Plan(dtype, remat, micro_batch, peak, peak)


def test_recommend_takes_the_fastest_or_the_least_recomputation_that_is_enough() -> None:
    none, attention, block = a_plan("none", 8), a_plan("attention", 16), a_plan("block", 64)
    too_large = a_plan("none", 64, 3e9)
    plans = [too_large, none, attention, block]
    assert plan.recommend(plans, 2e9, {}) == attention
    assert plan.recommend(plans, 2e9, {none: 3.0, attention: 1.0, block: 2.0}) == none
    assert plan.recommend([a_plan("none", 2), a_plan("block", 4)], 2e9, {}).remat == "block"
    with pytest.raises(InputError, match=r"at least 1 GB a device \(dtype=float32, remat=none, mi"):
        plan.recommend([a_plan("block", 1, 1.1e9), a_plan("none", 8, 1e9)], 9e8, {})


@pytest.mark.parametrize("size", [1, 1.5e3, 4_567_890, 999_999_999, 1e9, 1.2301e12])
def test_rounded_up_is_enough_and_close(size: float) -> None:
    assert size <= float(plan.rounded_up(size)) * 1e9 * (1 + 1e-12) < 1.011 * size


def test_the_predicted_peak_is_what_xla_reports_and_the_plan_runs(planner: plan.Planner) -> None:
    sizes = planner.sizes()
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]
    budget = 1.01 * planner.peak("float32", "none", 32)
    chosen = planner.plan("float32", "none", budget)
    assert chosen.micro_batch == 32  # Neither of the two sizes that the line is drawn through.
    assert chosen.predicted == pytest.approx(chosen.peak, rel=0.1)
    assert chosen.peak <= budget < planner.peak("float32", "none", 48)
    assert planner.images_per_second(chosen) > 0


def test_the_peak_counts_what_training_holds(planner: plan.Planner) -> None:
    """State, training pixels with labels and a feed are arguments; evaluation's pixels besides."""
    session = planner.session
    dataset, loader = session.dataset, session.train_loader
    _, feed = next(loader.epoch(0))
    arrays = jax.tree.leaves((session.phases[Phase.ONE].template, loader.data, feed))
    arguments = sum(x.size * x.dtype.itemsize for x in arrays)
    sizes = planner.step("float32", "none", 96).memory_analysis()
    assert sizes.argument_size_in_bytes == pytest.approx(arguments, rel=0.01)

    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    pixels = len(dataset.splits["val"]) * 8 * 8 * 3
    assert planner.peak("float32", "none", 96) == sizes.argument_size_in_bytes + new + pixels


def test_remat_needs_less(planner: plan.Planner) -> None:
    assert planner.peak("float32", "attention", 96) < planner.peak("float32", "none", 96)


def test_training_gets_the_least_recomputation_within_its_budget(
    planner: plan.Planner,
) -> None:
    said: list[str] = []
    roomy = tiny_config(memory_gb=1.0, micro_batch=2)
    planned = plan.fit_session(session_of(roomy), said.append).config
    assert plan.overrides(roomy, planned) == ["config.micro_batch=0"]
    assert roomy.micro_batch == 2  # The user's stays as it was.
    assert said[0].startswith("memory_gb=1: config.micro_batch=0; 0.0")

    tight = tiny_config(memory_gb=1.01 * planner.peak("float32", "none", 32) / plan.GB)
    planned = plan.fit_session(session_of(tight), said.append).config
    assert (planned.micro_batch, planned.model.remat) == (32, "none")
    assert planned.memory_gb == tight.memory_gb

    free = session_of(tiny_config())
    assert plan.fit_session(free, said.append) is free


def test_too_small_a_budget_is_refused_and_the_need_it_names_is_enough() -> None:
    config = tiny_config(memory_gb=1e-4)
    fields = {"image_size": 8, "depth": 1, "dtype": "float32"}
    config.model = ConfigDict({"name": "mlp_mixer_nano", **fields})  # Compiles fast.
    with pytest.raises(InputError) as refusal:
        plan.fit_session(session_of(config), print)
    assert "\n" not in str(refusal.value)
    need = re.search(
        r"at least (\S+) GB a device \(dtype=float32, remat=\w+, micro_batch=1\)",
        str(refusal.value),
    )
    assert need is not None
    config.memory_gb = float(need[1])
    plan.fit_session(session_of(config), print)


def test_evaluation_fits_too() -> None:
    planner = plan.Planner(session_of(tiny_config(eval_batch_size=4096)))
    assert planner.eval_batch_size(1e12) == 4096
    small = planner.eval_batch_size(2e-2 * plan.GB)
    assert 1 < small < 4096
    assert 4096 % small == 0


def test_batch_norm_sees_the_whole_batch() -> None:
    config = tiny_config()
    config.model = ConfigDict({"name": "resnet18", "dtype": "float32"})
    assert plan.Planner(session_of(config)).sizes() == [96]


def test_the_command_prints_overrides_that_the_config_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "experiments/configs/digits.py:mlp_mixer_nano"  # Compiles fast.
    given = ["--config.batch_size=6", "--config.micro_batch=2", "--config.model.depth=1"]
    command = [sys.executable, "-m", "experiments.plan", f"--config={path}", *given]
    one_device = {**os.environ, "XLA_FLAGS": quick_jax.flags()}
    result = subprocess.run(
        [*command, "--memory_gb=1", "--config.model.image_size=8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=one_device,
    )
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if re.match(r"\| b?float", line)]
    assert [row.split(" | ")[2] for row in rows] == 4 * ["6"]  # Two dtypes, blocks kept or not.
    pasted = re.findall(r"--config\.\S+", result.stdout.partition("Recommended:")[2])

    monkeypatch.setattr(sys, "argv", ["train", f"--config={ROOT / path}", *given, *pasted])
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(sys.argv)
    assert values.config.micro_batch == 0
