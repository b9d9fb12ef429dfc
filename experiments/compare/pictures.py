"""The pictures of a comparison: top-1 against what it costs, and the gain of the handoff."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxv_jax import plots
from experiments.compare.rows import Mean, Rows, by_system, gains, main_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The models that this project is about stand out.
OURS = ("cpv", "cnv", "cltv", "cxv_base", "cxv_small", "cxv_nano")
# File, label of the axis, field of a row, unit.
COSTS = [
    ("top1_parameters.png", "parameters", "parameters", 1),
    ("top1_flops.png", "training MFLOP an image", "train_flops", 1e-6),
    ("top1_minutes.png", "minutes a run", "seconds", 1 / 60),
    ("top1_memory.png", "memory of the training step (MiB)", "train_memory", 2**-20),
    ("top1_speed.png", "training images/s", "images_per_second", 1),
]


class Point(NamedTuple):
    """A system in a picture."""

    name: str
    x: float
    top1: Mean
    color: str


def draw(folder: Path, rows: Rows) -> list[str]:
    """Draw what there are figures for and remove what is out of date; return the file names."""
    drawn = []
    for file, label, field, scale in COSTS:
        points = _points(rows, field, scale)
        matched = field == "parameters" and _alike([point.x for point in points])
        if points and not matched:
            _against(points, folder / file, label)
            drawn.append(file)
    if gain := gains(rows):
        _gains(gain, _colors(rows), folder / "gain.png")
        drawn.append("gain.png")
    for file in ({file for file, *_ in COSTS} | {"gain.png"}) - set(drawn):
        (folder / file).unlink(missing_ok=True)
    return drawn


def _alike(values: list[float]) -> bool:
    """Whether systems were made equal in this, so that an axis of it says nothing."""
    return len(values) > 1 and max(values) < 1.1 * min(values)


def _points(rows: Rows, field: str, scale: float) -> list[Point]:
    top1 = by_system(rows, "test_top1", main_kind(rows))
    costs, colors = by_system(rows, field, main_kind(rows)), _colors(rows)
    names = [name for name in top1 if name in costs]
    return [Point(name, scale * costs[name].mean, top1[name], colors[name]) for name in names]


def _colors(rows: Rows) -> dict[str, str]:
    return {r["system"]: plots.OURS if r["model"] in OURS else plots.OTHERS[0] for r in rows}


def _against(points: list[Point], path: Path, label: str) -> None:
    """Top-1 over a cost, names in a column at the right."""
    figure = plots.new_figure(7, max(4, 1 + 0.25 * len(points)))
    ax = figure.subplots()
    for point in points:
        deviation = 100 * (point.top1.deviation or 0)
        style: dict[str, Any] = {"color": point.color, "capsize": 3, "markersize": 6}
        ax.errorbar(point.x, 100 * point.top1.mean, deviation or None, fmt="o", **style)
    ax.set(xlabel=label, ylabel="test top-1 (%)")
    ax.margins(x=0.08, y=0.08)
    if max(point.x for point in points) > 3 * min(point.x for point in points):
        _logarithmic(ax)
    else:
        ax.xaxis.set_major_formatter("{x:,.6g}")
    _name_column(ax, points)
    plots.tidy(ax)
    plots.save(figure, path)


def _logarithmic(ax: "Axes") -> None:
    """Numbers, not powers, on a logarithmic axis; some between the powers where it is short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_xscale("log")
    low, high = ax.get_xlim()
    several = (1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 200 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=several))
    ax.xaxis.set_major_formatter("{x:,.6g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _name_column(ax: "Axes", points: list[Point]) -> None:
    """Names right of the picture in the order of the points, joined to them by thin lines."""
    ordered = sorted(points, key=lambda point: point.top1.mean)
    low, high = ax.get_ylim()
    wanted = [(100 * point.top1.mean - low) / (high - low) for point in ordered]
    for point, height in zip(ordered, spread(wanted, gap=min(0.055, 1 / len(points))), strict=True):
        ax.annotate(
            point.name,
            xy=(point.x, 100 * point.top1.mean),
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            color=point.color,
            fontsize=9,
            zorder=1,  # The lines pass behind the points.
            arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6},
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart until neighbours are ``gap`` from each other, none above 1.

    Example:
      >>> spread([0.5, 0.5, 0.8], gap=0.25)
      [0.375, 0.625, 0.9]
    """
    up = _pushed_up(heights, gap)
    down = [-height for height in _pushed_up([-height for height in reversed(heights)], gap)]
    middle = [(a + b) / 2 for a, b in zip(up, reversed(down), strict=True)]
    from_top = _pushed_up([max(-1.0, -height) for height in reversed(middle)], gap)
    return [round(-height, 9) for height in reversed(from_top)]


def _pushed_up(heights: Sequence[float], gap: float) -> list[float]:
    placed: list[float] = []
    for height in heights:
        placed.append(max([height, *(below + gap for below in placed[-1:])]))
    return placed


def _gains(gain: dict[str, Mean], colors: dict[str, str], path: Path) -> None:
    """A bar for every system, the largest gain on top."""
    names = sorted(gain, key=lambda name: gain[name].mean)
    figure = plots.new_figure(7, 1.2 + 0.3 * len(names))
    ax = figure.subplots()
    errors = [100 * (gain[name].deviation or 0) for name in names]
    means = [100 * gain[name].mean for name in names]
    bars: dict[str, Any] = {"color": [colors[name] for name in names], "capsize": 3, "height": 0.6}
    ax.barh(names, means, xerr=errors if any(errors) else None, **bars)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("gain in test top-1 by the second optimizer (percentage points)")
    plots.tidy(ax)
    plots.save(figure, path)
