"""What the children have left: how tests went, how gradients differ, how far trainings are."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accelerator.tasks import Task
from cxv_jax.journal import Journal

TARGET = 0.9446  # Top-1 that arXiv 2201.10271 states for CPV.


def outcomes(path: Path) -> dict[str, str]:
    """Test to ``passed``, ``skipped`` or the first line of its failure, from JUnit's XML."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else []:
        bad: Any = next((x for x in case if x.tag in ("failure", "error", "skipped")), None)
        line = "" if bad is None else " ".join(bad.get("message", "").split())[:150]
        found[case.get("name", "")] = line or ("passed" if bad is None else bad.tag)
    return found


def compare(got: tuple[Any, Any], want: tuple[Any, Any]) -> dict[str, Any]:
    """Relative differences: of the gradients the largest over tensors, of each step's loss.

    A tensor's is relative to its largest entry; one whose entries are all below a thousandth of the
    largest of all (zero in exact arithmetic, perhaps) is relative to that thousandth.
    """
    least = 1e-3 * max(float(np.abs(w).max()) for w in want[0])
    pairs = zip(got[0], want[0], strict=True)
    gradients = [float(np.abs(g - w).max() / max(np.abs(w).max(), least)) for g, w in pairs]
    losses = [abs(g - w) / abs(w) for g, w in zip(got[1], want[1], strict=True)]
    return {"gradients": max(gradients), "losses": losses}


def epochs(task: Task) -> list[dict[str, Any]]:
    """The records of its epochs, each with ``elapsed``, the seconds of all steps up to its end."""
    found, elapsed = [], 0.0
    for record in Journal(task.result.parent).read():
        if record["kind"] == "epoch":
            elapsed += record["seconds"]
            found.append({**record, "elapsed": elapsed})
    return found


def training(tasks: list[Task]) -> tuple[list[str], list[list[str]]]:
    """Titles and a row for every training that has begun."""
    titles = ["run", "epochs", "best top-1 %", f"seconds to {100 * TARGET:.2f} %", "images/s"]
    rows = []
    for task in tasks:
        done = epochs(task)
        if done:
            rates = sorted(record["images_per_second"] for record in done)
            cells = [
                f"{len(done)}",
                _best(done),
                _seconds_to(done),
                f"{rates[len(rates) // 2]:,.1f}",
            ]
            cells += [f"{done[-1]['elapsed']:,.0f}", _test(task.result)]
            rows.append([task.name, *cells])
    return [*titles, "seconds in all", "test top-1 %"], rows


def _best(done: list[dict[str, Any]]) -> str:
    tops = [record["val_top1"] for record in done if record["val_top1"] is not None]
    return f"{100 * max(tops):.2f}" if tops else ""


def _seconds_to(done: list[dict[str, Any]]) -> str:
    there = [record["elapsed"] for record in done if (record["val_top1"] or 0) >= TARGET]
    return f"{there[0]:,.0f}" if there else "not reached"


def _test(summary: Path) -> str:
    if not summary.exists():
        return "not finished"
    return f"{100 * json.loads(summary.read_text())['test_top1']:.2f}"
