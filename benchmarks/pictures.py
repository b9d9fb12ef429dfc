"""The pictures of ``benchmarks.against_torch``."""

from pathlib import Path
from typing import Any

from cxv_jax import plots

BARS = [
    ("training images/s", "train_images_per_s"),
    ("inference images/s", "infer_images_per_s"),
    ("peak memory (GB)", "peak_gb"),
]
LINES = [
    ("training: seconds an image", lambda row: 1 / row["train_images_per_s"]),
    ("peak memory (GB)", lambda row: row["peak_gb"]),
]


def draw_sides(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of speed and memory, a group a model, a color a side."""
    figure, axes = _figure(len(BARS))
    models, names = (list(dict.fromkeys(row[field] for row in rows)) for field in ("model", "side"))
    width = 0.8 / len(names)
    for ax, (title, field) in zip(axes, BARS, strict=True):
        for i, name in enumerate(names):
            values = {row["model"]: row[field] for row in rows if row["side"] == name}
            places = [models.index(model) + (i - (len(names) - 1) / 2) * width for model in values]
            ax.bar(places, list(values.values()), width, label=name, color=_color(name, names))
        ax.set_title(title)
        ax.set_xticks(range(len(models)), models)
    _finish(figure, axes, path)


def draw_growth(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over the number of pixels, a line a side."""
    figure, axes = _figure(len(LINES))
    rows = [row for row in rows if "devices" not in row]
    names = list(dict.fromkeys(row["side"] for row in rows))
    for ax, (title, value) in zip(axes, LINES, strict=True):
        for name in names:
            mine = [row for row in rows if row["side"] == name]
            ax.plot([row["size"] ** 2 for row in mine], [value(row) for row in mine], "o-")
            ax.lines[-1].set(label=name, color=_color(name, names))
        ax.set(title=title, xlabel="pixels of an image", xscale="log", yscale="log")
    _finish(figure, axes, path)


def _figure(count: int) -> tuple[Any, Any]:
    figure = plots.new_figure(4 * count, 3.6)
    return figure, figure.subplots(1, count)


def _color(name: str, names: list[str]) -> str:
    return plots.OURS if name == "ours" else plots.OTHERS[names.index(name) % len(plots.OTHERS)]


def _finish(figure: Any, axes: Any, path: Path) -> None:
    for ax in axes:
        plots.tidy(ax)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    plots.save(figure, path)
