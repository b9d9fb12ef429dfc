"""Comparisons: the same report however often they are interrupted, and whatever system fails."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from cxv_jax import profile, report, train
from cxv_jax.data import sources
from cxv_jax.errors import InputError
from cxv_jax.interrupt import Interrupted
from cxv_jax.parts import make_optimizer
from cxv_jax.phase import Phase
from cxv_jax.records import PhaseSummary, Summary
from experiments.compare import page, pictures, schedule, tables
from experiments.compare import rows as rows_module
from experiments.compare.carry_out import Launch, carry_out
from experiments.configs import comparison, digits

ROOT = Path(__file__).parents[1]
SYSTEMS: dict[str, dict[str, Any]] = {
    "ours": {"name": "cltv", "embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4},
    "bad": {"name": "vit", "patch_size": 3},
    "resnet": {"name": "resnet18", "widths": (4, 6), "depths": (1, 1)},
}
BAD = "images of 8x8 pixels cannot be cut into patches of 3x3"


def tiny(only: str = "") -> ConfigDict:
    recipe = digits.get_config()
    recipe.data.subset_per_class = 20
    recipe.phase1.update(epochs=1, schedule="constant")
    recipe.phase2.update(epochs=1)
    config = comparison.compare(recipe, SYSTEMS, only)
    config.handoff = "with"
    return config


def in_process() -> Launch:
    """Runs without processes of their own."""

    def one_line(work: Callable[[], Any]) -> str | None:
        try:
            work()
        except InputError as error:
            return str(error)
        return None

    def costs(system: dict[str, Any], options: dict[str, Any], out: Path, log: Path) -> str | None:
        return one_line(lambda: out.write_text(json.dumps(profile.profile(system, **options))))

    def run(config: Path, folder: Path, log: Path) -> str | None:
        single = ConfigDict(json.loads(config.read_text()))
        return one_line(lambda: train.train_and_evaluate(single, folder, quiet=True))

    return Launch(costs, run)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The table without what another run of the same config measures differently."""
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in rows_module.MEASURED} for row in rows]


def text_of(folder: Path) -> str:
    text = (folder / "report.md").read_text()
    return re.sub(r"## Measured.*?(?=## Pictures)|- Date: \S+", "", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert not carry_out(tiny(), folder, in_process(), command="the command", say=lambda line: None)
    return folder


def test_a_failing_system_is_recorded_and_the_others_go_on(whole: Path) -> None:
    bad, *others = rows_of(whole)
    assert bad["status"] == "failed"
    assert BAD in bad["error"]
    text = (whole / "report.md").read_text()
    assert f"- bad, seed 0: failed: {BAD}" in text
    assert [(row["system"], row["status"]) for row in others] == [
        ("ours", "finished"),
        ("resnet", "finished"),
    ]
    for row in others:
        summary = json.loads((whole / f"runs/{row['system']}-seed0/summary.json").read_text())
        assert float(row["test_top1"]) == summary["phases"]["phase2"]["test_top1"]
        assert int(row["parameters"]) == summary["parameters"]
        assert f"| {row['system']} | {100 * summary['test_top1']:.2f} |" in text
    for name in ("top1_parameters", "top1_memory", "top1_speed"):
        assert f"({name}.png)" in text
        assert (whole / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_comparison_ends_with_the_same_report(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = report.Report.update, [0]

    def update(self: Any, *args: Any, **kwargs: Any) -> None:
        steps[0] += 1
        if steps[0] == 13:  # In the second run; both have two epochs of 5 steps.
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args, **kwargs)

    shutil.copytree(whole / "costs", tmp_path / "costs")  # These are known for good.
    with monkeypatch.context() as patch:
        patch.setattr(report.Report, "update", update)
        with pytest.raises(Interrupted):
            carry_out(tiny(), tmp_path, in_process(), command="the command", say=lambda line: None)
    statuses = [row["status"] for row in rows_of(tmp_path)]
    assert statuses == ["failed", "finished", "missing"]
    half = (tmp_path / "report.md").read_text()
    assert "- resnet, seed 0: not run yet" in half

    said: list[str] = []
    carry_out(tiny(), tmp_path, in_process(), command="the command", say=said.append)
    assert [line.split(":")[0] for line in said] == ["[1/3] bad-seed0", "[3/3] resnet-seed0"]
    assert rows_of(tmp_path) == rows_of(whole)
    assert text_of(tmp_path) == text_of(whole)


def test_the_report_is_a_function_of_the_finished_runs(whole: Path, tmp_path: Path) -> None:
    files, folder = ("report.md", "results.csv"), tmp_path / "copy"
    before = [(whole / name).read_bytes() for name in files]
    shutil.copytree(whole, folder)

    def never(*args: Any) -> str | None:
        raise AssertionError("a finished run was started again")

    def failed(config: Path, folder: Path, log: Path) -> str | None:
        assert "bad" in config.name
        return f"{BAD}: resize them or change patch_size"

    for name in files:
        (folder / name).unlink()
    launch = Launch(in_process().profile, failed)
    carry_out(tiny(), folder, launch, command="the command", say=lambda line: None)
    assert [(folder / name).read_bytes() for name in files] == before
    # The same runs, fewer systems: nothing is started.
    carry_out(tiny("resnet"), folder, Launch(never, never), command="the command")
    assert {row["system"] for row in rows_of(folder)} == {"resnet"}
    other = tiny()
    other.phase1.learning_rate = 0.5
    with pytest.raises(InputError, match="other settings .phase1.learning_rate"):
        carry_out(other, folder, Launch(never, never))


CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests.test_compare import tiny
def get_config(only="ours"):
    return tiny(only)
"""


def test_kill_9_leaves_no_process_and_the_same_command_goes_on(whole: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.py"
    config.write_text(CONFIG.format(root=str(ROOT)))
    workdir = tmp_path / "work"
    shutil.copytree(whole / "costs", workdir / "costs")
    arguments = ["experiments.compare", f"--config={config}", f"--workdir={workdir}"]
    command = [sys.executable, "-m", *arguments]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    log = workdir / "logs" / "ours-seed0.log"
    # The log is there a moment before the child is.
    wait_for(lambda: first.poll() is not None or (log.exists() and any(children_of(first.pid))))
    assert first.poll() is None
    (child,) = (int(p) for p in children_of(first.pid))
    first.kill()
    first.wait()
    wait_for(lambda: not Path(f"/proc/{child}/cmdline").exists() or not cmdline(child))
    assert not (workdir / "runs" / "ours-seed0" / "summary.json").exists()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "[1/1] ours-seed0: test top-1" in again.stdout
    assert f"`python -m {' '.join(arguments)}`" in (workdir / "report.md").read_text()
    (row,) = rows_of(workdir)
    assert row == next(row for row in rows_of(whole) if row["system"] == "ours")


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited two minutes in vain")


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def rows(figures: dict[tuple[str, int, bool], float | None]) -> rows_module.Rows:
    """Rows with these top-1."""
    summary: dict[str, Any] = {"test_top5": 1.0, "epochs": 3, "peak_memory_of": "process"}
    summary |= {"images_per_second": 10.0, "seconds": 1.0, "peak_memory_bytes": 5, "date": "d"}
    summary |= {"device": "x", "workdir": "", "dataset": "", "model": "", "selection": "val"}
    made = []
    for which, top1 in figures.items():
        phases = {"phase1": PhaseSummary(1, top1 or 0.0, top1 or 0.0, 1.0)}
        own = Summary(**summary, test_top1=top1 or 0.0, phases=phases, parameters=1, config={})
        made.append(rows_module.row_of(which, which[0], own if top1 else None, "", {}))
    return made


def test_gains_are_paired_by_seed_and_deviations_those_of_numpy() -> None:
    made = rows(
        {
            ("a", 0, True): 0.50, ("a", 0, False): 0.40,
            ("a", 1, True): 0.70, ("a", 1, False): 0.50,
            ("a", 2, True): 0.90, ("a", 2, False): None,
            ("b", 0, True): 0.95, ("b", 1, True): None,
            ("c", 0, False): None,
        }
    )  # fmt: skip
    gain = rows_module.gains(made)
    assert list(gain) == ["a"]
    assert gain["a"].mean == pytest.approx(0.15)
    assert gain["a"].deviation == pytest.approx(np.std([0.1, 0.2], ddof=1))
    top1 = rows_module.by_system(made, "test_top1", True)
    assert top1["a"] == pytest.approx((0.7, np.std([0.5, 0.7, 0.9], ddof=1), 3))
    assert top1["b"] == (0.95, None, 1)
    assert rows_module.ranked(made) == ["b", "a", "c"]
    lines = tables.results(made)
    assert lines[3].startswith("| a | 70.00 ± 20.00 | 45.00 ± 7.07 | +15.00 ± 7.07 |")
    assert lines[4].startswith("| c | - | - | - |")


def test_pictures_without_figures_are_removed(tmp_path: Path) -> None:
    made = rows({("a", 0, True): 0.5, ("a", 0, False): 0.4})
    assert pictures.draw(tmp_path, made) == ["top1_minutes.png", "top1_speed.png", "gain.png"]
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")
    assert pictures.draw(tmp_path, made[:1]) == ["top1_minutes.png", "top1_speed.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"top1_minutes.png", "top1_speed.png"}


DATASET = sources.load("digits", subset_per_class=20)  # 180 training images, 5 batches of 32.


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        ({}, (9, 3)),
        ({"images": 160 * 8}, (6, 2)),
        ({"images": 160 * 7}, (5, 2)),
        ({"images": 1}, (1, 0)),
        ({"seconds": 4.0}, (3, 1)),  # 160 images/s: one epoch a second.
    ],
    ids=str,
)
def test_a_budget_becomes_epochs_of_both_phases(
    budget: dict[str, Any], epochs: tuple[int, int]
) -> None:
    config = tiny()
    config.phase1.epochs, config.phase2.epochs = 9, 3
    config.phase2.schedule = "cosine"
    config.budget.update(budget)
    costs = {"train_images_per_second": 160.0}
    both, single = (schedule.build(config, DATASET, costs, ("ours", 4, h)) for h in (True, False))
    assert (both.phase1.epochs, both.phase2.epochs) == epochs
    assert (single.phase1.epochs, single.phase2.epochs) == (sum(epochs), 0)
    assert single.seed == 4
    assert single.model.head_dim == 4
    assert set(single) == set(digits.get_config())
    make_optimizer(single, Phase.TWO, 5)  # A schedule over no epochs would be refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"handoff": "maybe"}, "config.handoff.*both, with, without"),
        ({"seeds": (1, 1)}, "config.seeds"),
        ({"systems": {}}, "config.systems"),
        ({"systems": {"a": {"depth": 3}}}, "systems.a has no name"),
        ({"budget": {"seconds": 1.0, "images": 5}}, "not both"),
        ({"data.source": "digitz"}, "digits"),
        ({"batch_size": 0}, "batch_size"),
    ],
    ids=str,
)
def test_bad_fields_are_named_and_nothing_is_written(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = tiny()
    for field, value in change.items():
        place = config.data if field.startswith("data.") else config
        place[field.removeprefix("data.")] = ConfigDict(value) if type(value) is dict else value
    with pytest.raises(InputError, match=words):
        carry_out(config, tmp_path / "work", in_process())
    assert not (tmp_path / "work").exists()


def test_a_budget_in_seconds_needs_a_rate() -> None:
    config = tiny()
    config.budget.seconds = 3.0
    with pytest.raises(InputError, match="seconds"):
        schedule.build(config, DATASET, {}, ("ours", 0, True))


def test_a_system_has_its_own_rate_and_a_gem_split_is_the_seed() -> None:
    config = tiny()
    config.training = ConfigDict({"ours": {"phase1": {"learning_rate": 0.25}, "batch_size": 8}})
    config.data.splits = "gem"
    single = schedule.build(config, DATASET, {}, ("ours", 2, False))
    assert single.phase1.learning_rate == 0.25
    assert (single.seed, single.data.split_index) == (2, 2)
    words = page.markdown(config, rows({("ours", 2, False): 0.5}), "", [])
    assert "seed i is split i" in words
    assert "- Of a system's own: ours batch_size 8, phase1.learning_rate 0.25." in words
