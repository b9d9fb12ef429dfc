"""Trainings that are killed, refused and deceived; ``make soak`` is the long form."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cxv_jax import step_folder
from tests.faults.harness import Victims, damaged, differing, files, leftovers, outcome

KINDS = ("flipped", "cut", "empty", "gone")


class Bench:
    """Victims and the run without a fault that they are compared with."""

    def __init__(self, victims: Victims, folder: Path):
        self.victims, self.whole = victims, folder / "whole"
        assert victims.run(self.whole) == 0, victims.said
        self.reference = outcome(self.whole)
        self.unfinished = folder / "unfinished"
        assert victims.run(self.unfinished, instant="handoff", act="kill") == -9

    def ends_as_if_nothing_had_been(self, workdir: Path) -> None:
        assert self.victims.run(workdir) == 0, self.victims.said
        assert differing(workdir, self.reference) == []
        assert leftovers(workdir, self.whole) == []

    def refused(self, code: int | None, *words: str) -> None:
        """Exit code 2, one line that says why."""
        assert code == 2, self.victims.said
        errors = [x for x in self.victims.said.splitlines() if x.startswith("error: ")]
        assert len(errors) == 1, self.victims.said
        assert not [x for x in ("Traceback", "ERROR") if x in self.victims.said], self.victims.said
        assert all(word in errors[0] for word in words), errors


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with Victims(folder) as victims:
        yield Bench(victims, folder)


def test_a_run_killed_at_every_instant_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path
) -> None:
    instants = ("start", "compile", "evaluation", "save", "writing", "epoch", "handoff")
    counts = {"save": 2, "epoch": 3}
    for instant in (*instants, "test", "report", "picture"):
        count = counts.get(instant, 1)
        code = bench.victims.run(tmp_path / "run", instant=instant, count=count, act="kill")
        assert code == -9, f"{instant}: {bench.victims.said}"
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


def test_a_run_killed_before_changes_of_files_ends_with_the_same_bits(
    bench: Bench, tmp_path: Path
) -> None:
    for operation in (2, 5, 9, 17, 26, 35, 44, 53):
        code = bench.victims.run(tmp_path / "run", operation=operation, act="kill")
        assert code == -9, f"{operation}: {bench.victims.said}"
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


def test_signals_at_any_instant_end_a_run_and_cost_nothing(bench: Bench, tmp_path: Path) -> None:
    terminated, interrupted, hung_up = ("terminate", 143), ("interrupt", 130), ("hang up", -1)
    for instant, (act, expected) in {
        **{"start": interrupted, "compile": terminated, "evaluation": hung_up},
        **{"epoch": interrupted, "writing": terminated, "handoff": hung_up, "report": hung_up},
    }.items():
        code = bench.victims.run(tmp_path / "run", instant=instant, act=act)
        assert code == expected, f"{instant}: {bench.victims.said}"
        assert "Traceback" not in bench.victims.said
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"operation": 2, "act": "inodes"}, ["No space left"]),
        ({"operation": 20, "act": "quota"}, ["quota exceeded"]),
        ({"operation": 1, "act": "read-only"}, ["Read-only file system"]),
        ({"operation": 4, "act": "full"}, ["No space left"]),
        ({"operation": 60, "act": "full"}, ["No space left"]),
        ({"largest": 20_000}, ["a checkpoint could not be written", "make room"]),
    ],
    ids=str,
)
def test_a_disk_that_refuses_is_one_line_and_costs_nothing(
    bench: Bench, tmp_path: Path, fault: dict[str, Any], words: list[str]
) -> None:
    bench.refused(bench.victims.run(tmp_path / "run", **fault), *words)
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


def test_a_finished_run_on_a_read_only_disk_says_that_it_is_finished(bench: Bench) -> None:
    before = files(bench.whole)
    assert bench.victims.run(bench.whole, operation=1, act="read-only") == 0
    assert "already finished" in bench.victims.said
    assert files(bench.whole) == before


def test_a_second_process_in_a_folder_is_refused_and_disturbs_nothing(
    bench: Bench, tmp_path: Path
) -> None:
    first = bench.victims.start(tmp_path / "run", instant="epoch", count=6, act="pause")
    assert bench.victims.wait(first) is None
    second = bench.victims.run(tmp_path / "run")
    os.kill(first, 0)
    bench.refused(second, f"in use by process {first} on")
    bench.victims.resume(first)
    assert bench.victims.wait(first) == 0
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


def test_a_clock_that_is_set_back_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    assert bench.victims.run(tmp_path / "run", instant="evaluation", act="clock") == 0
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"seconds": -' not in text
    assert '"images_per_second": -' not in text
    bench.ends_as_if_nothing_had_been(tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_checkpoint_is_known_to_be_damaged(bench: Bench, kind: str) -> None:
    steps = list((bench.whole / "checkpoints").iterdir())
    victims = [path for step in steps for path in step.rglob("*") if path.is_file()]
    assert len(victims) > 30
    for path in victims:
        step = next(each for each in steps if each in path.parents)
        if not path.stat().st_size and kind in ("flipped", "cut", "empty"):
            continue  # An empty file stays what it is.
        with damaged(path, kind):
            whole = step_folder.is_complete(step) and step_folder.fault(step) is None
        assert not whole, path
    assert all(step_folder.fault(step) is None for step in steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "data.json", "checkpoints"])
def test_a_damaged_file_is_refused_or_costs_nothing(
    bench: Bench, tmp_path: Path, name: str, kind: str
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(bench.unfinished, workdir)
    path = workdir / name
    if path.is_dir():
        latest = max(filter(step_folder.is_complete, path.iterdir()), key=lambda x: int(x.name))
        path = next(latest.rglob("manifest.ocdbt"))
    with damaged(path, kind):
        code = bench.victims.run(workdir)
        if code == 0:
            assert differing(workdir, bench.reference) == []
            assert leftovers(workdir, bench.whole) == []
            return
        bench.refused(code)
    if kind in ("flipped", "cut"):  # What could be read is what it was.
        bench.ends_as_if_nothing_had_been(workdir)


@pytest.mark.parametrize("kind", ["cut", "empty", "gone"])
def test_lost_lines_of_metrics_cost_no_weights(bench: Bench, tmp_path: Path, kind: str) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(bench.unfinished, workdir)
    with damaged(workdir / "metrics.jsonl", kind):
        assert bench.victims.run(workdir) == 0, bench.victims.said
        assert "metrics.jsonl has lost its line of epoch" in bench.victims.said
        assert set(differing(workdir, bench.reference)) <= {"metrics"}
