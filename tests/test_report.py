"""What a person sees and what stays on disk: every line, every number, after interruptions too."""

import json
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cxv_jax import plots
from cxv_jax import report as report_module
from cxv_jax.final_table import final_table
from cxv_jax.jsonable import read
from cxv_jax.phase import Phase
from cxv_jax.records import (
    CalibrationRecord,
    ClassRecord,
    EpochRecord,
    HandoffRecord,
    PhaseSummary,
    Summary,
)
from cxv_jax.report import Report


def epoch_record(epoch: int, phase: int = 1, **changed: Any) -> EpochRecord:
    record: dict[str, Any] = {
        "phase": Phase(phase),
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": 2 / epoch,
        "train_top1": 1 - 0.5 / epoch,
        "val_loss": 3 / epoch,
        "val_top1": 0.98765,
        "val_top5": 1.0,
        "best_top1": 0.98765,
        "improved": True,
        "patience_left": 5,
        "learning_rate": 1e-3,
        "images_per_second": 12345.6,
        "seconds": 75.4,
        "selection": "val",
    }
    return EpochRecord(**record | changed)


def handoff_record(epoch: int, **changed: Any) -> HandoffRecord:
    record: dict[str, Any] = {
        "phase": Phase.TWO,
        "epoch": epoch,
        "step": 10 * epoch,
        "best_top1": 0.9,
        "from_epoch": 1,
    }
    return HandoffRecord(**record | changed)


def summary(workdir: Path, **changed: Any) -> Summary:
    def phase(epoch: int, top1: float) -> PhaseSummary:
        return PhaseSummary(epoch, val_top1=top1 + 0.01, test_top1=top1, test_top5=0.999)

    fields: dict[str, Any] = {
        "workdir": str(workdir),
        "dataset": "digits",
        "model": "cpv",
        "selection": "val",
        "test_top1": 0.9833,
        "phases": {"phase1": phase(7, 0.9806), "phase2": phase(12, 0.9833)},
        "parameters": 1345994,
        "images_per_second": 1234.5,
        "seconds": 3 * 3600 + 25 * 60,
        "peak_memory_bytes": 3 * 2**29,
        "peak_memory_of": "device",
        "device": "2 x H200 (gpu)",
        "test_top5": 0.999,
        "config": {},
    }
    return Summary(**fields | changed)


def records(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir: Path) -> list[Event]:
    """TensorBoard's events by the definition of its file format: length, crc, bytes, crc."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += length + 16
    return found


def test_quiet_lines_are_what_a_log_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "EVERY", 0.0)
    with Report(tmp_path, quiet=True, say=print) as report:
        report.message("resuming")
        report.start_epoch(Phase.ONE, 1, steps=4, batch_size=32)
        report.update(4, 1.0, 0.5)
        report.end_epoch(epoch_record(1))
        report.end_epoch(epoch_record(2, improved=False, val_top1=0.9, patience_left=4))
        report.hand_over(handoff_record(2))
        report.hand_over(handoff_record(0, from_epoch=0))
    assert capsys.readouterr().out.splitlines() == [
        "resuming",
        "epoch   1  phase 1 | train loss 2.0000 top-1  50.00 % | val loss 3.0000 top-1  98.77 % "
        "(best so far) | 12,346 images/s, 1 min 15 s",
        "epoch   2  phase 1 | train loss 1.0000 top-1  75.00 % | val loss 1.5000 top-1  90.00 % "
        "(best 98.77 %, patience 4) | 12,346 images/s, 1 min 15 s",
        "handoff: phase 2 begins at step 20 from the best weights (epoch 1, val top-1 90.00 %)",
        "handoff: phase 2 begins at step 0 from the initial weights",
    ]


def test_quick_epochs_have_a_line_every_few_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(report_module.time, "perf_counter", lambda: now[0])
    with Report(tmp_path, quiet=True, say=print) as report:
        for epoch in range(1, 8):
            report.end_epoch(epoch_record(epoch))
            now[0] += 1.0
        report.hand_over(handoff_record(7))
        report.end_epoch(epoch_record(8, phase=2))
        report.end_epoch(epoch_record(9, phase=2))
        report.finish(summary(tmp_path))
    lines = [line[:9] for line in capsys.readouterr().out.splitlines() if line[:5] == "epoch"]
    assert lines == [f"epoch   {epoch}" for epoch in (1, 4, 7, 8, 9)]
    assert len([r for r in records(tmp_path) if r["kind"] == "epoch"]) == 9


def test_best_so_far_is_said_when_the_figure_rose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tie with a smaller loss is the best epoch, but no higher figure."""
    monkeypatch.setattr(report_module, "EVERY", 0.0)
    tops = [0.5, 0.5, 0.6, 0.6]
    with Report(tmp_path, quiet=True, say=print) as report:
        for epoch, top1 in enumerate(tops, 1):
            report.end_epoch(epoch_record(epoch, val_top1=top1, best_top1=top1))
    last = epoch_record(4, val_top1=0.6, best_top1=0.6)
    with Report(tmp_path, quiet=True, say=print, resume_step=40, last=last) as report:
        report.end_epoch(epoch_record(5, val_top1=0.6, best_top1=0.6))
        report.end_epoch(epoch_record(6, val_top1=0.7, best_top1=0.7))
    said = ["best so far" in line for line in capsys.readouterr().out.splitlines()]
    assert said == [True, False, True, False, False, True]


def test_selection_on_test_is_said_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Report(tmp_path, quiet=True, say=print) as report:
        report.end_epoch(epoch_record(1, selection="test"))
        report.hand_over(handoff_record(1))
        report.finish(summary(tmp_path, selection="test"))
    printed = capsys.readouterr().out
    assert "| test loss 3.0000" in printed
    assert "test top-1 90.00 %)" in printed
    assert "selected on the test split, as in the paper: test figures are not held out" in printed
    assert "val" not in printed
    tags = {value.tag for event in events(tmp_path) for value in event.summary.value}
    assert {"loss/test", "top1/test"} <= tags
    assert not [tag for tag in tags if "val" in tag]


def test_the_bar_shows_the_epoch_so_far_and_leaves_lines_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    with Report(tmp_path, quiet=False, say=print) as report:
        report.start_epoch(Phase.TWO, 3, steps=8, batch_size=64, done=4)
        assert report._bar is not None
        report._bar.mininterval = 0  # Draw every update.
        report.update(1, 1.0, 0.25)
        report.message("a message")
        report.update(3, 0.2, 0.75)
        report.end_epoch(epoch_record(3, phase=2))
        report.finish(summary(tmp_path))
    drawn = [line.rstrip() for line in capsys.readouterr().out.replace("\r", "\n").splitlines()]
    bars = [line for line in drawn if line.startswith("phase 2  epoch   3  step ")]
    assert bars[0].startswith("phase 2  epoch   3  step 4/8 |")
    # Means over the steps of the epoch so far: (1 * 1.0 + 3 * 0.2) / 4, (1 * 0.25 + 3 * 0.75) / 4.
    assert bars[-1].endswith("images/s, loss 0.4000  top-1 62.50 %")
    assert "step 8/8 |" in bars[-1]
    assert any("step 5/8 |" in line and "loss 1.0000  top-1 25.00 %" in line for line in bars)
    lines = [line for line in drawn if line.strip() and line not in bars]
    assert lines[0] == "a message"
    assert lines[1].startswith("epoch   3  phase 2 |")
    assert drawn[-1] == "test top-1 98.33 % (phase 1: 98.06 %)"


def test_images_per_second_are_those_of_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    with Report(tmp_path, quiet=False, say=print) as report:
        report.start_epoch(Phase.ONE, 1, steps=100, batch_size=50, done=60)
        clock = [0.0]
        assert report._bar is not None
        report._bar.start_t = report._bar.last_print_t = 0.0
        report._bar._time = lambda: clock[0]
        clock[0] = 4.0
        report.update(20, 1.0, 0.5)  # 20 steps of 50 images in 4 seconds.
        assert " 250 images/s" in str(report._bar)
    capsys.readouterr()


@pytest.mark.parametrize(("quiet", "terminal"), [(None, False), (None, True), (True, True)])
def test_only_a_terminal_gets_a_bar(
    quiet: bool | None, terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    with Report(tmp_path, quiet=quiet) as report:
        report.start_epoch(Phase.ONE, 1, steps=4, batch_size=32)
    assert bool(capsys.readouterr().out) == (quiet is None and terminal)


def test_metrics_and_tensorboard_hold_the_numbers(tmp_path: Path) -> None:
    with Report(tmp_path, quiet=True, say=print) as report:
        report.end_epoch(epoch_record(1))
        report.end_epoch(epoch_record(2))
        report.hand_over(handoff_record(2))
    expected = [
        {"kind": "epoch", **epoch_record(1).to_json()},
        {"kind": "epoch", **epoch_record(2).to_json()},
        {"kind": "handoff", **handoff_record(2).to_json()},
    ]
    assert records(tmp_path) == expected
    scalars: dict[str, Any] = defaultdict(dict)
    for event in events(tmp_path):
        for value in event.summary.value:
            scalars[value.tag][event.step] = value.simple_value
    assert scalars["loss/train"] == {10: 2, 20: 1}
    assert scalars["loss/val"] == {10: 3, 20: 1.5}
    assert scalars["top1/val"] == pytest.approx({10: 0.98765, 20: 0.98765})
    assert scalars["learning_rate"] == pytest.approx({10: 1e-3, 20: 1e-3})


@pytest.mark.parametrize(
    ("resume_step", "kept"),
    [
        (0, []),
        (10, ["epoch 1"]),
        (15, ["epoch 1"]),
        (20, ["epoch 1", "epoch 2"]),  # The handoff at step 20 is made again.
        (25, ["epoch 1", "epoch 2", "handoff 2"]),
        (30, ["epoch 1", "epoch 2", "handoff 2", "epoch 3"]),
    ],
)
def test_a_resumed_run_has_every_epoch_once(
    tmp_path: Path, resume_step: int, kept: list[str]
) -> None:
    with Report(tmp_path, quiet=True, say=print) as report:
        report.end_epoch(epoch_record(1))
        report.end_epoch(epoch_record(2))
        report.hand_over(handoff_record(2))
        report.end_epoch(epoch_record(3, phase=2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "step": 4')  # The process was killed here.
    Report(tmp_path, quiet=True, resume_step=resume_step).close()
    assert [f"{record['kind']} {record['epoch']}" for record in records(tmp_path)] == kept
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts[-1] == resume_step + 1  # TensorBoard hides what lies from here on.


def test_finish_writes_the_summary_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = summary(tmp_path)
    with Report(tmp_path, quiet=True, say=print) as report:
        report.end_epoch(epoch_record(1))
        capsys.readouterr()
        report.finish(given)
    assert json.loads((tmp_path / "summary.json").read_text()) == given.to_json()
    assert capsys.readouterr().out.splitlines() == [
        "",
        "              best epoch   val top-1  test top-1  test top-5",
        "     phase 1           7     99.06 %     98.06 %     99.90 %",
        "     phase 2          12     99.33 %     98.33 %     99.90 %",
        "",
        "1,345,994 parameters, 1,234 images/s, 3 h 25 min, peak memory 1.50 GiB (device), "
        "2 x H200 (gpu)",
        f"details in {tmp_path}: summary.json, curves.png, metrics.jsonl; tensorboard --logdir "
        f"{tmp_path}/tensorboard",
        "test top-1 98.33 % (phase 1: 98.06 %)",
    ]
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_phase_alone_is_reported_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = {"phase1": summary(tmp_path).phases["phase1"]}
    with Report(tmp_path, quiet=True, say=print) as report:
        report.finish(summary(tmp_path, phases=phases, test_top1=0.9806))
    assert capsys.readouterr().out.splitlines()[-1] == "test top-1 98.06 %"


def test_only_the_first_process_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Report(tmp_path / "run", quiet=False, say=print) as report:
        report.start_epoch(Phase.ONE, 1, steps=4, batch_size=32)
        report.update(4, 1.0, 0.5)
        report.end_epoch(epoch_record(1))
        report.hand_over(handoff_record(1))
        report.message("text")
        report.finish(summary(tmp_path))
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert not list(tmp_path.iterdir())


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    saved: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: saved.append(figure))
    return saved


@pytest.mark.parametrize("decay", [1.0, 0.5], ids=["constant rate", "schedule"])
def test_curves_draw_the_records_and_mark_the_handoff(figures: list[Any], decay: float) -> None:
    rates = [decay**e for e in (1, 2, 3)]
    lines = [
        {"kind": "epoch", **epoch_record(e, 1 + e // 3, learning_rate=rates[e - 1]).to_json()}
        for e in (1, 2, 3)
    ]
    lines.insert(2, {"kind": "handoff", **handoff_record(2).to_json()})
    plots.curves(lines, "unused", title="cpv on folder:/$a{$", split="val")
    axes = figures[0].axes
    assert len(axes) == (2 if decay == 1 else 3)
    drawn = [{line.get_label(): line.get_xydata() for line in ax.lines} for ax in axes]
    np.testing.assert_allclose(drawn[0]["train"], [(1, 2), (2, 1), (3, 2 / 3)])
    np.testing.assert_allclose(drawn[0]["val"], [(1, 3), (2, 1.5), (3, 1)])
    np.testing.assert_allclose(drawn[1]["train"][:, 1], [50, 75, 100 - 50 / 3])
    for ax in axes:
        assert list(ax.lines[-1].get_xdata()) == [2.5, 2.5]
    assert [text.get_text() for text in axes[0].texts] == [" handoff"]
    FigureCanvasAgg(figures[0]).draw()  # A title with dollars is not TeX either.
    if decay != 1:
        np.testing.assert_allclose(axes[2].lines[0].get_ydata(), rates)


@pytest.mark.parametrize(("classes", "numbers", "names"), [(3, 9, 3), (21, 0, 21), (61, 0, None)])
def test_confusion_pictures_show_shares_and_what_there_is_room_for(
    figures: list[Any], classes: int, numbers: int, names: int | None
) -> None:
    matrix = np.arange(classes**2).reshape(classes, classes)
    matrix[1] = 0  # A class without images is no division by zero.
    labels = [f"${{class {i}$" for i in range(classes)]  # Not TeX.
    plots.confusion(matrix, labels, "unused", title="$a")
    ax = figures[0].axes[0]
    shares = np.array([row / max(row.sum(), 1) for row in matrix])
    np.testing.assert_allclose(ax.images[0].get_array(), shares)
    assert len(ax.texts) == numbers
    if numbers:
        assert [int(text.get_text()) for text in ax.texts] == matrix.ravel().tolist()
    if names:
        assert [label.get_text() for label in ax.get_yticklabels()] == labels
    FigureCanvasAgg(figures[0]).draw()


def test_any_name_can_be_drawn(figures: list[Any]) -> None:
    labels = ["a" * 300 + "z", "\udce9", "x\x1b[2J"]
    plots.confusion(np.eye(3, dtype=int), labels, "unused", title="\udce9" + 500 * "b" + "end")
    ax = figures[0].axes[0]
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == ["aaaaaaaaa…aaaaaaaaaz", "\\udce9", "x\\x1b[2J"]
    assert len(ax.get_title()) == 90
    assert ax.get_title().endswith("end")
    FigureCanvasAgg(figures[0]).draw()


def test_a_picture_that_fails_costs_no_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "curves", fail)
    with Report(tmp_path, quiet=True, say=print) as report:
        report.finish(summary(tmp_path))
    assert (tmp_path / "summary.json").exists()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "warning: curves.png could not be drawn (no font)"
    assert printed[-1].startswith("test top-1")


def test_unbalanced_classes_are_told_with_intervals(tmp_path: Path) -> None:
    rows = [
        ClassRecord("cat", 15, 15, 15 / 16, 1.0, 0.98765),
        ClassRecord("dog", 3, 2, None, 2 / 3),
        ClassRecord("gnu", 0, 0, None, None),
    ]
    phase = PhaseSummary(9, None, 17 / 18, 1.0, test_balanced_accuracy=5 / 6, test_macro_f1=0.8)
    given = summary(
        tmp_path, selection="last", test_top1=17 / 18, test_count=18, per_class=rows,
        phases={"phase1": phase},
    )  # fmt: skip
    assert read(Summary, json.loads(json.dumps(given.to_json())), "here") == given
    lines = final_table(given)
    assert lines[1:8] == [
        "              last epoch   val top-1  test top-1  between (95 %)  balanced accuracy"
        "    macro-F1",
        "     phase 1           9                 94.44 %      74 to 99 %            83.33 %"
        "     80.00 %",
        "",
        "class  images  correct  precision    recall   AUROC",
        "cat        15       15    93.75 %  100.00 %  0.9877",
        "dog         3        2          -   66.67 %       -",
        "gnu         0        0          -         -       -",
    ]
    assert lines[9] == "left out of balanced accuracy and macro-F1, without an image: gnu"
    assert lines[-1] == "test top-1 94.44 % (18 images: 74 to 99 %)"
    fitted = CalibrationRecord(0.0625, 9, 1.5, 40, 0.03, 0.2)
    told = {
        fitted: "6.25 %, 3.00 % at temperature 1.500 (fitted on 40 validation images; predict",
        CalibrationRecord(0.0625, 9): "6.25 %; no temperature without a validation split",
        CalibrationRecord(0.0625, 9, images=7): "no temperature: all 7 validation images are right",
    }
    for record, words in told.items():
        assert words in "\n".join(final_table(summary(tmp_path, calibration=record)))
    six = summary(tmp_path, test_count=18, per_class=rows * 2)
    assert "test top-5" in final_table(six)[1]


def test_the_figure_that_selects_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores: dict[str, Any] = {"select_by": "macro_f1", "val_score": 0.5, "best_score": 0.75}
    with Report(tmp_path, quiet=True, say=print) as report:
        report.end_epoch(epoch_record(1, **scores, improved=False))
    assert "top-1  98.77 % macro-F1  50.00 % (best 75.00 %, patience 5)" in capsys.readouterr().out


def test_pytorch_is_not_imported_for_tensorboards_sake() -> None:
    code = (
        "import sys\nclass Asked:\n    def find_spec(self, name, *_):\n"
        "        assert name != 'torch'\n"
        "sys.meta_path.insert(0, Asked())\nimport cxv_jax.report\n"
        "try:\n    import torch\nexcept AssertionError:\n    print('asked, as ever')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "asked, as ever\n", done.stderr
