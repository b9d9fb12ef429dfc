"""The campaign: the same table however often it is killed, honest words where it cannot go on."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accelerator import parts, results, tasks
from benchmarks.accelerator.campaign import Campaign
from benchmarks.accelerator.tasks import Task
from cxv_jax import train
from cxv_jax.errors import InputError
from tests.benchmarks import stand_ins


class Killed(BaseException):
    """As SIGKILL would: nobody catches it."""


def piece(output: Path, launch: Any = stand_ins.launch, **how: Any) -> Campaign:
    """A campaign as a new process would begin it."""
    todo = how.pop("todo", None) or tasks.rehearsal(output)
    return Campaign(todo, output, launch, say=lambda line: None, **how)


def text_of(output: Path) -> str:
    """The report without the columns of the training that tell time."""
    times = r"(\| toy.*?\| \d+ \| [\d.]+ \|).*(\| [\d.]+ \|)"
    text, count = re.subn(times, r"\1 \2", (output / "report.md").read_text())
    assert count == 1
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a campaign writes that nothing has stopped."""
    output = tmp_path_factory.mktemp("whole")
    done = piece(output)
    done.carry_out(1e6, done._clock())
    assert done.what_next("") == f"nothing is left; the tables are in {output / 'report.md'}"
    return output


def test_killed_at_every_stage_it_ends_with_the_same_table(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[tuple[str, str], bool] = {}

    def kill(task: Task, moment: str) -> None:
        if not begun.setdefault((task.name, moment), False):
            begun[task.name, moment] = True
            raise Killed

    def launch(task: Task, log: Path, stop: Callable[[], bool]) -> str | None:
        kill(task, "before it has begun")
        if task.stage == "training":
            with monkeypatch.context() as patch:  # In the second epoch's end.
                real = train.end_epoch

                def end_epoch(run: Any, *rest: Any) -> Any:
                    if run.progress.epoch == 1:
                        kill(task, "within")
                    return real(run, *rest)

                patch.setattr(train, "end_epoch", end_epoch)
                error = stand_ins.launch(task, log, stop)
        else:
            error = stand_ins.launch(task, log, stop)
        kill(task, "before its record")
        return error

    while (now := piece(tmp_path, launch)).left:
        try:
            now.carry_out(1e6, now._clock())
        except Killed:
            assert not now.record(now.left[0])
    assert len(begun) == 2 * len(tasks.rehearsal(tmp_path)) + 1
    assert text_of(tmp_path) == text_of(whole).replace(str(whole), str(tmp_path))
    for stage in ("correctness", "device", "costs", "torch", "training"):
        assert (tmp_path / f"{stage}.png").stat().st_size > 5000


def test_the_table_has_the_figures(whole: Path) -> None:
    text = (whole / "report.md").read_text()
    assert "| goldens_cxv | full float32 | 1 of 2 pass |" in text
    assert "| logits[cnv] |  | 3 of 20 differ |" in text
    # 1,000 images/s of 4 GFLOP and 0.6 GB: 4 of 50 and of 400 TFLOP/s, 600 of 3,000 GB/s.
    assert (
        "| cltv | float32 | 1,000.0 | 9,000.0 | 1,024 | 8.0 | 20.0 | 12.5 | not available" in text
    )
    assert "| cltv | bfloat16 | 1,000.0 | 9,000.0 | 1,024 | 1.0 | 20.0 | 12.5 |" in text
    assert "| cltv | float32 | torch eager | 400.0 | 1.25 | 400.0 | 1.25 | 1.50 |" in text
    assert "| not reached |" in text  # Three epochs of the digits.


def test_a_fresh_machine_goes_on_from_the_parts(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs"))
    piece(tmp_path)
    runs = [sorted(p.relative_to(o) for p in o.rglob("runs/**/*")) for o in (whole, tmp_path)]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 10


def test_a_piece_ends_in_time_and_says_what_is_next(tmp_path: Path) -> None:
    now, ended = [0.0], []

    def launch(task: Task, log: Path, stop: Callable[[], bool]) -> str | None:
        if task.name == "device":
            return "no such GPU"
        while not stop():  # Works for ever.
            now[0] += 1
        ended.append((task.name, now[0]))
        return "interrupted: saved step 7"

    todo = [task for task in tasks.rehearsal(tmp_path) if task.stage in ("device", "training")]
    slow = tasks.rehearsal(tmp_path)[0]
    first = piece(tmp_path, launch, todo=[slow, *todo], clock=lambda: now[0])
    first.carry_out(540, 0)
    assert ended == [("goldens_cxv", 401), ("toy-seed0", 541)]
    assert first.record(slow) == {"status": "failed", "note": "took longer than 400 s"}
    assert [task.name for task in first.left] == ["toy-seed0", "goldens_cxv", "device"]
    assert first.what_next("CMD") == "3 of 3 tasks are left; next is toy-seed0; run again: CMD"
    assert "- device failed: no such GPU" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"torch": ""}, "PyTorch is not installed"),
        ({"torch_cuda": False}, "PyTorch 2.9.0 is a build without CUDA"),
    ],
)
def test_without_torch_the_comparison_is_skipped_in_words(
    found: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "DEVICE", {**stand_ins.DEVICE, **found})
    now = piece(tmp_path, todo=[t for t in tasks.rehearsal(tmp_path) if t.stage != "training"])
    now.carry_out(1e6, now._clock())
    assert not now.left
    assert f"- torch_cltv_float32 skipped: {words}" in (tmp_path / "report.md").read_text()


def test_differences_are_relative_and_noise_is_no_difference() -> None:
    want = [np.array([1.0, -2.0]), np.array([1e-9])]  # The second zero in exact arithmetic.
    got = [np.array([1.0, -2.2]), np.array([3e-9])]
    found = results.compare((got, [2.2]), (want, [2.0]))
    assert found == {"gradients": pytest.approx(0.1), "losses": pytest.approx([0.1])}


def test_parts_are_small_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    run, into, out = tmp_path / "a-run", tmp_path / "parts", tmp_path / "runs"
    for folder in (run / "checkpoints", into, out):
        folder.mkdir(parents=True)
    content = np.random.default_rng(0).bytes(100_000)
    (run / "checkpoints" / "weights").write_bytes(content)
    for _ in range(2):  # The second time in place of the first.
        parts.pack(run, into, largest=30_000)
    files = [path for path in into.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert max(path.stat().st_size for path in files) <= 30_000
    assert len(parts.unpack_all(into, out)) == 1
    assert (out / "a-run" / "checkpoints" / "weights").read_bytes() == content
    assert parts.unpack_all(into, out) == []
    shutil.rmtree(out / "a-run")
    (into / "a-run" / "001").write_bytes(b"x")
    with pytest.raises(InputError, match="001 is missing or damaged"):
        parts.unpack_all(into, out)
    assert list(out.iterdir()) == []
