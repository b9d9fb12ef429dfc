"""Pictures of data and runs: a contact sheet, learning curves, a confusion matrix, explanations.

Matplotlib is imported on use only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int, UInt8

from cxv_jax.files import replace
from cxv_jax.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Layout = Literal["constrained"] | None
# More classes than this leave no room for a number in each cell, and for a name on each row.
MOST_NUMBERS = 20
MOST_NAMES = 60
DPI = 130
# Of a contact sheet, in pixels: the least side of an image, the space around it, and for text.
CELL, GAP, BLOCK_GAP, HEADER, LETTER = 64, 2, 16, 36, 10
LONGEST_TITLE = 90
LONGEST_NAME = 20  # Letters of a row's name before it is cut short.
ORANGE, BLUE, PALE_BLUE, GREY = "#c44e20", "#1f5fa8", "#6f9bd1", "#9a9a9a"
TRAIN, HELD_OUT, HANDOFF = GREY, BLUE, ORANGE
OURS, OTHERS = ORANGE, (BLUE, PALE_BLUE, GREY)


def contact_sheet(
    blocks: Mapping[str, UInt8[np.ndarray, "row column height width 3"]],
    row_names: Sequence[str],
    path: str | Path,
) -> None:
    """Draw blocks of images side by side, every pixel as it is, small images enlarged by a whole
    number.

    Args:
      blocks: title above a block (one or two lines) to its images; all blocks have the same rows.
      row_names: to the left of the rows.
      path: the PNG file, replaced at once.
    """
    names = [_shortened(name) for name in row_names]
    margin = LETTER * max(map(len, names)) + 2 * GAP
    pictures = [_tiled(block) for block in blocks.values()]
    width = margin + sum(picture.shape[1] + BLOCK_GAP for picture in pictures)
    height, left = HEADER + pictures[0].shape[0], margin
    # Half a pixel more, lest rounding cut one off.
    figure = new_figure((width + 0.5) / DPI, (height + 0.5) / DPI, layout=None)
    for title, picture in zip(blocks, pictures, strict=True):
        figure.figimage(picture, xo=left, yo=0, origin="upper")
        middle = (left + picture.shape[1] / 2) / width
        _text(figure, middle, 1 - HEADER / 2 / height, title, ha="center")
        left += picture.shape[1] + BLOCK_GAP
    for row, name in enumerate(names):
        y = (row + 0.5) / len(names) * pictures[0].shape[0]
        _text(figure, (margin - 3 * GAP) / width, 1 - (HEADER + y) / height, name, ha="right")
    save(figure, path)


def curves(
    records: Sequence[dict[str, Any]], path: str | Path, *, title: str, split: str = "val"
) -> None:
    """Draw loss and top-1 over epochs, the learning rate if it varies, and the handoff.

    Args:
      records: the lines of ``metrics.jsonl``: records of kind ``epoch``, and ``handoff`` if any.
      path: the PNG file, replaced at once.
      title: above the picture.
      split: name of the split whose figures are in the ``val_`` fields.
    """
    epochs = [record for record in records if record["kind"] == "epoch"]
    handoffs = [record["epoch"] + 0.5 for record in records if record["kind"] == "handoff"]
    panels = [("loss (nats)", "loss", 1), ("top-1 (%)", "top1", 100)]
    varies = len({(record["phase"], record["learning_rate"]) for record in epochs}) > 2
    figure = new_figure(4.2 * (len(panels) + varies), 3.4)
    axes = figure.subplots(1, len(panels) + varies, squeeze=False)[0]
    numbers = [record["epoch"] for record in epochs]
    for ax, (label, name, scale) in zip(axes, panels, strict=False):
        for kind, color, of in (("train", TRAIN, "train"), ("val", HELD_OUT, split)):
            values = [record[f"{kind}_{name}"] for record in epochs]
            if None in values:  # Nothing was evaluated.
                continue
            ax.plot(
                numbers,
                scale * np.array(values),
                ".-",
                color=color,
                label=of,
                markersize=4,
                linewidth=1.2,
            )
        ax.set_ylabel(label)
    if varies:
        rates = [record["learning_rate"] for record in epochs]
        axes[-1].step(numbers, rates, color=HELD_OUT, where="mid", linewidth=1.2)
        axes[-1].set(ylabel="learning rate", yscale="log" if min(rates) > 0 else "linear")
    for ax in axes:
        _finish_panel(ax, handoffs)
    axes[0].legend(frameon=False)
    figure.suptitle(_shortened(title, LONGEST_TITLE), parse_math=False)
    save(figure, path)


def confusion(
    matrix: Int[np.ndarray, "classes classes"],
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
) -> None:
    """Draw a confusion matrix: rows are true classes, colours are shares of a row.

    Args:
      matrix: number of images by (true class, predicted class).
      class_names: one for every row.
      path: the PNG file, replaced at once.
      title: above the picture.
    """
    count = len(class_names)
    size = float(np.clip(2.5 + 0.4 * count, 4.5, 12))
    figure = new_figure(size + 1, size)
    ax = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=ax, label="share of the true class", shrink=0.8)
    if count <= MOST_NUMBERS:
        for (row, column), number in np.ndenumerate(matrix):
            color = "white" if shares[row, column] > 0.5 else "black" if number else "0.8"
            ax.text(column, row, str(number), ha="center", va="center", color=color, fontsize=8)
    if count <= MOST_NAMES:
        names = [_shortened(name) for name in class_names]
        ax.set_xticks(range(count), names, rotation=90, fontsize=8)
        ax.set_yticks(range(count), names, fontsize=8)
    ax.set(xlabel="predicted class", ylabel="true class", title=_shortened(title, LONGEST_TITLE))
    for text in (ax.title, *ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_parse_math(False)  # A class may be called $5.
    save(figure, path)


def explanations(
    images: UInt8[np.ndarray, "image height width 3"],
    overlays: Mapping[str, np.ndarray],
    titles: Sequence[tuple[str, str]],
    path: str | Path,
) -> None:
    """Draw images, each beside copies of it with maps laid over.

    Args:
      images: of one size.
      overlays: title to maps ``[image, map_height, map_width]``, each scaled to its own range.
      titles: two lines above each image.
      path: the PNG file, replaced at once.
    """
    across = min(len(images), 3 if len(overlays) < 2 else 2)  # Images in a row.
    down, wide = -(-len(images) // across), 1 + len(overlays)
    height, width = images.shape[1:3]
    cell = 1.6
    figure = new_figure(cell * wide * across, (cell * height / width + 0.5) * down)
    groups = figure.subfigures(down, across, squeeze=False, wspace=0.06).ravel()
    for group, image, title, number in zip(
        groups, images, titles, range(len(images)), strict=False
    ):
        axes = group.subplots(1, wide, squeeze=False)[0]
        lines = "\n".join(_shortened(line, LONGEST_NAME * wide) for line in title)
        group.suptitle(lines, fontsize=8, x=0.02, ha="left", parse_math=False)
        for ax, (name, maps) in zip(axes, {"": None, **overlays}.items(), strict=True):
            ax.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
            if maps is not None:
                heat = (maps[number] - maps[number].min()) / max(np.ptp(maps[number]), 1e-12)
                ax.imshow(
                    heat,
                    cmap="inferno",
                    alpha=0.6,
                    interpolation="bilinear",
                    extent=(0, width, height, 0),
                )
            ax.set(xticks=[], yticks=[])
            ax.set_xlabel(name, fontsize=7, labelpad=2)
            ax.spines[:].set_visible(False)
    save(figure, path)


def reliability(curves: Mapping[str, Any], path: str | Path, *, title: str) -> None:
    """Draw accuracy over confidence, and below how many images are how sure.

    Args:
      curves: a name to a :class:`cxv_jax.calibration.Reliability`; the second is highlighted.
      path: the PNG file, replaced at once.
      title: above the picture.
    """
    figure = new_figure(5, 5.4)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for (name, curve), color in zip(curves.items(), (GREY, BLUE), strict=False):
        label = f"{name}: error {100 * curve.error:.1f} %"
        known = curve.counts > 0
        top.plot(curve.confidence[known], curve.accuracy[known], "o-", color=color, label=label)
        edges = np.linspace(0, 1, len(curve.counts) + 1)
        bottom.stairs(curve.counts, edges, color=color)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.set_title(_shortened(title, LONGEST_TITLE), parse_math=False)
    top.legend(frameon=False, loc="upper left")
    bottom.set(xlabel="confidence", ylabel="images", yscale="symlog", ylim=(0, None))
    for ax in (top, bottom):
        tidy(ax)
    save(figure, path)


def new_figure(width: float, height: float, layout: Layout = "constrained") -> "Figure":
    """A figure of so many inches, drawn by Agg: no window, nothing shared with pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def save(figure: "Figure", path: str | Path) -> None:
    """Write a PNG file, so that a reader sees the old or the new one."""
    replace(Path(path), lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))


def tidy(ax: "Axes") -> None:
    """A faint grid behind the data, no frame above and at the right."""
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _tiled(block: np.ndarray) -> np.ndarray:
    """[row, column, height, width, 3] as one picture, white between the enlarged images."""
    scale = -(-CELL // min(block.shape[2:4]))
    cells = block.repeat(scale, axis=2).repeat(scale, axis=3)
    space = [(0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)]
    cells = np.pad(cells, space, constant_values=255)
    rows, columns, height, width, channels = cells.shape
    return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def _shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name without what cannot be drawn, its middle left out where it is too long."""
    name = printable(name)
    half = longest // 2
    return name if len(name) <= longest else f"{name[: longest - half - 1]}…{name[-half:]}"


def _text(figure: "Figure", x: float, y: float, text: str, ha: str) -> None:
    figure.text(x, y, text, ha=ha, va="center", fontsize=8, parse_math=False)


def _finish_panel(ax: "Axes", handoffs: Sequence[float]) -> None:
    for x in handoffs:
        ax.axvline(x, color=HANDOFF, linestyle="--", linewidth=1)
        ax.annotate(" handoff", (x, 0.5), xycoords=("data", "axes fraction"), color=HANDOFF)
    ax.set_xlabel("epoch")
    ax.locator_params(axis="x", integer=True, nbins=8)
    tidy(ax)
