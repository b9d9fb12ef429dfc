"""The pictures of the campaign, one a stage; each returns whether there was anything to draw."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.accelerator.results import TARGET, epochs
from benchmarks.accelerator.tasks import Task
from cxv_jax import plots

DTYPES = ("float32", "bfloat16")


def _results(tasks: list[Task]) -> list[Any]:
    files = [task.result for task in tasks if task.result.suffix == ".json"]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _correctness(tasks: list[Task], path: Path) -> bool:
    """Lines: each step's loss against the CPU's."""
    rows = [row for found in _results(tasks) for row in found]
    lines = {f"{r['model']}, {r['precision']}": r["losses"] for r in rows}
    # A logarithm has no place for losses that are the same.
    drawn = {k: (list(range(1, len(v) + 1)), [max(x, 1e-9) for x in v]) for k, v in lines.items()}
    return _lines(drawn, path, "step", "relative difference of the loss", log=True)


def _device(tasks: list[Task], path: Path) -> bool:
    found = _results(tasks)
    rates = [{f"{name} products": each[name] / 1e3 for name in DTYPES} for each in found]
    return _bars([("rate", rates[0], plots.OURS)] if rates else [], path, "TFLOP/s")


def _costs(tasks: list[Task], path: Path) -> bool:
    rows = _results(tasks)
    groups = []
    for dtype, color in zip(DTYPES, (plots.OTHERS[0], plots.OURS), strict=True):
        mine = [row for row in rows if row["dtype"] == dtype]
        if mine:
            values = {row["system"]: row["train_images_per_second"] for row in mine}
            groups.append((dtype, values, color))
    return _bars(groups, path, "training images/s")


def _torch(tasks: list[Task], path: Path) -> bool:
    """Bars as ``benchmarks.against_torch`` has them, a group a model and precision."""
    rows = []
    for found in _results(tasks):
        for name, sides in found.items():
            short = name.removeprefix("sides_")
            rows += [{**row, "model": f"{row['model']}\n{short}"} for row in sides]
    if rows:
        pictures.draw_sides(rows, path)
    return bool(rows)


def _training(tasks: list[Task], path: Path) -> bool:
    """Lines: validation top-1 over the seconds of the steps."""
    drawn = {}
    for task in tasks:
        done = [record for record in epochs(task) if record["val_top1"] is not None]
        if done:
            tops = [100 * record["val_top1"] for record in done]
            drawn[task.name] = ([record["elapsed"] for record in done], tops)
    return _lines(drawn, path, "seconds", "validation top-1 (%)", level=100 * TARGET)


def _lines(
    drawn: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    x: str,
    y: str,
    **how: Any,
) -> bool:
    if not drawn:
        return False
    figure = plots.new_figure(6.4, 3.8)
    ax = figure.subplots()
    for name, (xs, ys) in drawn.items():
        ax.plot(xs, ys, label=name)
    if how.get("log"):
        ax.set_yscale("log")
    if "level" in how:
        ax.axhline(how["level"], color=plots.GREY, linestyle=":")
    ax.set(xlabel=x, ylabel=y)
    plots.tidy(ax)
    figure.legend(loc="outside right upper", frameon=False)
    plots.save(figure, path)
    return True


def _bars(groups: list[tuple[str, dict[str, float], str]], path: Path, title: str) -> bool:
    if not groups:
        return False
    names = list(dict.fromkeys(name for _, values, _ in groups for name in values))
    figure = plots.new_figure(6.4, 1 + 0.3 * len(names))
    ax = figure.subplots()
    height = 0.8 / len(groups)
    for i, (label, values, color) in enumerate(groups):
        places = [names.index(name) + i * height for name in values]
        ax.barh(places, list(values.values()), height, label=label, color=color)
    ax.set_yticks([i + height * (len(groups) - 1) / 2 for i in range(len(names))], names)
    ax.invert_yaxis()
    ax.set_xlabel(title)
    plots.tidy(ax)
    if len(groups) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    plots.save(figure, path)
    return True


DRAW: dict[str, Callable[[list[Task], Path], bool]] = {
    "correctness": _correctness,
    "device": _device,
    "costs": _costs,
    "torch": _torch,
    "training": _training,
}
