"""The end of a run, for a person: figures of each phase with their intervals, and of each class."""

from collections.abc import Sequence

from cxv_jax.figures import accuracy, between
from cxv_jax.phase import Phase
from cxv_jax.records import CalibrationRecord, ClassRecord, Summary
from cxv_jax.text import duration, percent


def test_line(summary: Summary) -> str:
    """The figure the run was made for: test top-1, and that of phase one where there are two."""
    top1, count = summary.test_top1, summary.test_count
    line = f"test top-1 {accuracy(top1, count) if count else percent(top1)}"
    if len(summary.phases) < 2:
        return line
    return f"{line} ({Phase.ONE}: {percent(summary.phases[Phase.ONE.key].test_top1)})"


def final_table(summary: Summary) -> list[str]:
    """The end of a run in a few lines; the last one has the test top-1."""
    last = summary.selection == "last"
    chosen = ("last epoch", "val top-1") if last else ("best epoch", f"{summary.selection} top-1")
    columns = [["", *(str(Phase.of_key(key)) for key in summary.phases)]]
    columns += [[chosen[0], *(str(phase.epoch) for phase in summary.phases.values())]]
    columns += _figure_columns(summary, chosen[1])
    widths = [max(12, *(len(cell) + 2 for cell in column)) for column in columns]
    rows = zip(*columns, strict=True)
    text = ("".join(map(str.rjust, row, widths)) for row in rows)
    memory = f"{summary.peak_memory_bytes / 2**30:.2f} GiB ({summary.peak_memory_of})"
    lines = ["", *text, "", *class_table(summary.per_class), *summary.begun_with]
    if summary.calibration:
        lines.append(calibration_line(summary.calibration))
    lines.append(
        f"{summary.parameters:,} parameters, {summary.images_per_second:,.0f} images/s, "
        f"{duration(summary.seconds)}, peak memory {memory}, {summary.device}"
    )
    if summary.selection == "test":
        lines.append("selected on the test split, as in the paper: test figures are not held out")
    lines.append(
        f"details in {summary.workdir}: summary.json, curves.png, metrics.jsonl; "
        f"tensorboard --logdir {summary.workdir}/tensorboard"
    )
    return [*lines, test_line(summary)]


def _figure_columns(summary: Summary, val: str) -> list[list[str]]:
    """The columns with figures, each under its title; top-5 of five classes would always be 1."""
    phases, few = summary.phases.values(), 0 < len(summary.per_class) <= 5
    columns = [[val, *(percent(phase.val_top1) for phase in phases)]]
    columns += [["test top-1", *(percent(phase.test_top1) for phase in phases)]]
    if n := summary.test_count:
        columns += [["between (95 %)", *(between(phase.test_top1, n) for phase in phases)]]
    balanced = [percent(phase.test_balanced_accuracy) for phase in phases]
    f1 = [percent(phase.test_macro_f1) for phase in phases]
    top5 = [percent(phase.test_top5) for phase in phases]
    columns += [["balanced accuracy", *balanced], ["macro-F1", *f1]] if any(balanced) else []
    if any(phase.test_auroc for phase in phases):
        columns += [["AUROC", *(share(phase.test_auroc) for phase in phases)]]
    return columns if few else [*columns, ["test top-5", *top5]]


def calibration_line(found: CalibrationRecord) -> str:
    """How far confidence is from accuracy on test, and what a temperature makes of it."""
    line = f"test calibration error {percent(found.ece)}"
    if found.temperature:
        line += (
            f", {percent(found.calibrated_ece)} at temperature {found.temperature:.3f} (fitted on "
        )
        return f"{line}{found.images:,} validation images; predict divides by it)"
    if not found.images:
        return f"{line}; no temperature without a validation split (--config.data.val_fraction)"
    return f"{line}; no temperature: all {found.images:,} validation images are right"


def share(value: float | None) -> str:
    """An area under a curve: ``0.9876``; nothing for None."""
    return "" if value is None else f"{value:.4f}"


def class_table(rows: Sequence[ClassRecord], most: int = 20) -> list[str]:
    """Images, hits, precision, recall and AUROC of every class; of more than ``most`` nothing but
    those without an image, which the means over classes leave out.
    """
    lines = []
    if 0 < len(rows) <= most:
        width = max(len("class"), *(len(row.name) for row in rows))
        lines = [f"{'class':<{width}}  images  correct  precision    recall   AUROC"]
        for row in rows:
            precision, recall = (percent(x) or "-" for x in (row.precision, row.recall))
            lines.append(
                f"{row.name:<{width}}  {row.count:6}  {row.hits:7}  {precision:>9}  {recall:>8}"
                f"  {share(row.auroc) or '-':>6}"
            )
        lines.append("")
    if absent := [row.name for row in rows if not row.count]:
        named = ", ".join(absent[:most]) + (", ..." if len(absent) > most else "")
        lines += [f"left out of balanced accuracy and macro-F1, without an image: {named}"]
    return lines
