"""The figures of a comparison: one row for every run, means over seeds, the gain of the handoff."""

import csv
import io
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from cxv_jax.records import Summary

Rows = list[dict[str, Any]]

COSTS = (
    "parameters",
    "parameters_torchsummary",
    "forward_flops",
    "train_flops",
    "train_memory",
    "train_temporary",
)
# Another run of the same config gives other values for these, and only for these.
MEASURED = ("images_per_second", "seconds", "peak_memory_bytes", "date")
BY_CLASS = ("test_balanced_accuracy", "test_macro_f1", "test_auroc")
FROM_SUMMARY = (
    "test_top1",
    "last_test_top1",
    "test_top5",
    "epochs",
    "peak_memory_of",
    "device",
    *MEASURED,
)
COLUMNS = (
    "system",
    "model",
    "seed",
    "handoff",
    "arm",
    "status",
    "val_top1",
    *FROM_SUMMARY,
    *BY_CLASS,
    *COSTS,
    "error",
)
LATER = ("handoff", "arm", "last_test_top1")  # Left out where no run has it.


class Mean(NamedTuple):
    """Mean and deviation (n - 1; None for one value) over seeds."""

    mean: float
    deviation: float | None
    seeds: int


def row_of(
    which: tuple[str, int, bool | str],
    model: str,
    summary: Summary | None,
    error: str,
    costs: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is known of one run; None where it is not known.

    Args:
      which: system, seed, with handoff or not, or the arm.
      model: its model.
      summary: of the run, or None.
      error: why it failed; empty if it did not.
      costs: what ``profile.profile`` returned, or empty.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    kind = "arm" if isinstance(which[2], str) else "handoff"
    row |= dict(zip(("system", "seed", kind), which, strict=True), model=model)
    row |= {name: costs.get(name) for name in COSTS}
    row["status"] = "finished" if summary else "failed" if error else "missing"
    if summary:
        last = summary.phases[max(summary.phases)]
        row |= {name: getattr(summary, name) for name in FROM_SUMMARY}
        row |= {name: getattr(last, name) for name in ("val_top1", *BY_CLASS)}
        row |= {"versions": summary.versions, "confusion": summary.confusion}
        row["classes"] = [record.name for record in summary.per_class]
        if 0 < len(row["classes"]) <= 5:  # It would always be all of them.
            row["test_top5"] = None
        row["test_count"] = summary.test_count
        row["parameters"] = summary.parameters if kind == "arm" else row["parameters"]
    elif error:
        row["error"] = error
    return row


def to_csv(rows: Rows) -> str:
    """The rows as CSV, in full precision; what is not known stays empty."""
    text = io.StringIO()
    known = {name for row in rows for name in COLUMNS if row[name] is not None}
    columns = [name for name in COLUMNS if name in known or name not in LATER]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def mean_of(values: Iterable[float | None]) -> Mean | None:
    """Mean and deviation of what is known; None where nothing is.

    Example:
      >>> mean_of([1.0, None, 3.0])
      Mean(mean=2.0, deviation=1.4142135623730951, seeds=2)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Mean(statistics.fmean(known), deviation, len(known))


def by_system(rows: Rows, field: str, handoff: bool | None = None) -> dict[str, Mean]:
    """Mean of a field over the seeds of each system, of runs of one kind (None: of both)."""
    systems = dict.fromkeys(row["system"] for row in rows)
    means = {
        system: mean_of(
            row[field]
            for row in rows
            if row["system"] == system and handoff in (None, row["handoff"])
        )
        for system in systems
    }
    return {system: mean for system, mean in means.items() if mean}


def gains(rows: Rows) -> dict[str, Mean]:
    """Top-1 with the handoff minus without it: differences of the same seed, averaged."""
    top1 = {(row["system"], row["seed"], row["handoff"]): row["test_top1"] for row in rows}
    systems = dict.fromkeys(row["system"] for row in rows)
    means = {
        system: mean_of(
            top1[name, seed, True] - without
            for (name, seed, handoff), without in top1.items()
            if name == system and not handoff and without is not None
            if top1.get((name, seed, True)) is not None
        )
        for system in systems
    }
    return {system: mean for system, mean in means.items() if mean}


def main_kind(rows: Rows) -> bool:
    """Which runs stand for the systems: those with the handoff, where the comparison has any."""
    return any(row["handoff"] for row in rows)


def ranked(rows: Rows) -> list[str]:
    """Systems by mean top-1, the best first; those without a result last."""
    top1 = by_system(rows, "test_top1", main_kind(rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    return sorted(systems, key=lambda name: -top1[name].mean if name in top1 else 1.0)
