"""``report.md`` and a picture a stage, from the records and results alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator import figures
from benchmarks.accelerator.results import outcomes, training
from benchmarks.accelerator.tasks import Task
from cxv_jax import tables
from cxv_jax.files import write_text

Records = dict[str, dict[str, Any]]


class Table(NamedTuple):
    """One stage's table: a title over each column, rows by the task's name, the notes below."""

    titles: list[str]
    rows: list[list[str]]
    notes: str = ""


def write(tasks: list[Task], records: Records, output: Path, *, draw: bool) -> None:
    """Bring the tables up to date, and on demand the pictures, which take seconds."""
    lines = ["# Measurements on an accelerator", ""]
    rates = _rates(tasks)
    for stage, (title, make) in STAGES.items():
        mine = [task for task in tasks if task.stage == stage]
        if not mine:
            continue
        made = make(mine, rates)
        lines += [f"## {title}", "", *tables.markdown(made.titles, made.rows), ""]
        lines += [made.notes, ""] * bool(made.notes)
        lines += _unfinished(mine, records)
        picture = output / f"{stage}.png"
        if draw:
            figures.DRAW[stage](mine, picture)
        if picture.exists():
            lines += [f"![{title}]({picture.name})", ""]
    write_text(output / "report.md", "\n".join(lines))


def load(task: Task) -> Any:
    """A task's result, None where there is none."""
    return json.loads(task.result.read_text()) if task.result.exists() else None


def _unfinished(tasks: list[Task], records: Records) -> list[str]:
    """A line about each task that failed or was skipped, and one of what is to come."""
    bad = [t for t in tasks if records[t.name].get("status") in ("failed", "skipped")]
    lines = [f"- {t.name} {records[t.name]['status']}: {records[t.name]['note']}" for t in bad]
    left = [task.name for task in tasks if not records[task.name]]
    lines += [f"- not done yet: {', '.join(left)}"] * bool(left)
    return [*lines, ""] if lines else []


def _rates(tasks: list[Task]) -> dict[str, Any]:
    """What the stage ``device`` has found, empty before."""
    return next((load(t) or {} for t in tasks if t.stage == "device"), {})


def _correctness(tasks: list[Task], rates: dict[str, Any]) -> Table:
    rows = []
    for task in tasks:
        if task.result.suffix == ".xml":
            found = outcomes(task.result)
            passed = sum(line == "passed" for line in found.values())
            rows += [[task.name, "full float32", f"{passed} of {len(found)} pass", ""]] * bool(
                found
            )
            rows += [[name, "", line, ""] for name, line in found.items() if line != "passed"]
        for row in (load(task) or []) if task.result.suffix == ".json" else []:
            losses = row["losses"]
            cells = [f"{row['gradients']:.1e}", f"{losses[0]:.1e}, {losses[-1]:.1e}"]
            rows.append([row["model"], row["precision"], *cells])
    titles = ["what", "products", "gradients against CPU", "first and last loss against CPU"]
    return Table(titles, rows, "Largest relative differences; the CPU computes in full float32.")


def _device(tasks: list[Task], rates: dict[str, Any]) -> Table:
    if not rates:
        return Table(["what", "rate"], [])
    rows = [[f"{name} products", f"{rates[name] / 1e3:,.1f} TFLOP/s"]
            for name in ("float32", "bfloat16")]  # fmt: skip
    rows.append(["memory", f"{rates['bandwidth']:,.0f} GB/s"])
    versions = ", ".join(f"{name} {number}" for name, number in rates["versions"].items())
    torch = f", torch {rates['torch']}" if rates["torch"] else ""
    return Table(["what", "rate"], rows, f"{rates['device']}, {rates['date']}; {versions}{torch}.")


def _costs(tasks: list[Task], rates: dict[str, Any]) -> Table:
    rows = []
    for task in tasks:
        for row in filter(None, [load(task)]):
            rate, dtype = row["train_images_per_second"], row["dtype"]
            work, moved = row["train_flops"] * rate / 1e9, row["train_traffic"] * rate / 1e9
            joules = row["train_joules_per_1000"], row["inference_joules_per_1000"]
            rows.append([
                row["system"], dtype,
                f"{rate:,.1f}", f"{row['inference_images_per_second']:,.1f}",
                f"{row['peak_memory_bytes'] / 2**20:,.0f}",
                f"{100 * work / rates[dtype]:.1f}" if rates else "",
                f"{100 * moved / rates['bandwidth']:.1f}" if rates else "",
                *("not available" if j is None else f"{j:,.1f}" for j in joules),
            ])  # fmt: skip
    titles = [
        *("system", "dtype", "training images/s", "inference images/s", "measured peak MiB"),
        *("% of matrix rate", "% of bandwidth", "training J/1,000 images"),
        "inference J/1,000 images",
    ]
    return Table(titles, rows, "Shares by XLA's count of FLOPs and bytes of the compiled step.")


def _torch(tasks: list[Task], rates: dict[str, Any]) -> Table:
    rows = []
    for task in tasks:
        for name, found in (load(task) or {}).items():
            rows += [[
                row["model"], name.removeprefix("sides_"), row["side"],
                f"{row['train_images_per_s']:,.1f}", f"{row['train_ratio']:.2f}",
                f"{row['infer_images_per_s']:,.1f}", f"{row['infer_ratio']:.2f}",
                f"{row['peak_gb']:,.2f}",
            ] for row in found]  # fmt: skip
    titles = ["model", "dtype", "side", "training images/s", "ours / this", "inference images/s"]
    return Table([*titles, "ours / this", "peak GB"], rows)


def _training(tasks: list[Task], rates: dict[str, Any]) -> Table:
    titles, rows = training(tasks)
    note = (
        "Seconds of the epochs' steps, without evaluation, with the compilation at the beginning "
        "of every piece; top-1 on validation, held out of train, but for the last column."
    )
    return Table(titles, rows, note)


STAGES: dict[str, tuple[str, Callable[[list[Task], dict[str, Any]], Table]]] = {
    "correctness": ("Correctness", _correctness),
    "device": ("The device", _device),
    "costs": ("Speed, memory, energy", _costs),
    "torch": ("Beside PyTorch", _torch),
    "training": ("Trainings", _training),
}
