"""Draw docs/architecture.svg, network and training: ``python docs/draw_architecture.py``."""

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

CONVOLUTION, ATTENTION, OTHER, TRAINING = "#cfe3f5", "#fbdcb4", "#ececec", "#d5ecd4"
Place = tuple[float, float]


def box(ax: Axes, x: float, y: float, text: str, color: str, width: float = 1.5) -> None:
    """A labelled box whose left middle is at ``x``, ``y``."""
    style = "round,pad=0,rounding_size=0.1"
    ax.add_patch(FancyBboxPatch((x, y - 0.4), width, 0.8, style, fc=color, ec="#555555"))
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=7.5)


def arrow(ax: Axes, start: Place, end: Place, height: float = 0.0) -> None:
    """An arrow; a skip path goes round above."""
    style = f"bar,fraction={-height / (end[0] - start[0])}" if height else "arc3"
    look = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "#555555"}
    ax.add_patch(FancyArrowPatch(start, end, connectionstyle=style, **look))


def network(ax: Axes, y: float) -> None:
    """Stem, block, head, from left to right."""
    parts = [
        (0.0, "image\nany size", OTHER, 1.4),
        (2.1, "2 convolutions\n3x3", CONVOLUTION, 1.5),
        (4.4, "convolution\nand norm", CONVOLUTION, 1.5),
        (6.6, "linear attention\nPerformer, Nyström,\nlinear", ATTENTION, 2.0),
        (9.5, "MLP", OTHER, 0.9),
        (11.6, "mean over\nthe pixels", OTHER, 1.3),
        (13.4, "classes", OTHER, 1.0),
    ]
    for x, text, color, width in parts:
        box(ax, x, y, text, color, width)
    for (x, _, _, width), (following, *_) in pairwise(parts):
        arrow(ax, (x + width, y), (following, y))
    for start, end in ((6.2, 8.95), (9.05, 10.75)):  # The two residual paths.
        arrow(ax, (start, y), (end, y), 0.65)
    ax.add_patch(
        FancyBboxPatch((4.2, y - 0.75), 6.7, 1.75, "round,pad=0", fc="none", ec="#888888", ls="--")
    )
    ax.text(7.55, y - 1.0, "block, repeated; no class token, no position embedding", ha="center")


def training(ax: Axes, y: float) -> None:
    """The two phases."""
    steps = [
        (0.0, "phase one: AdamW\nuntil validation stops improving", 3.9),
        (5.0, "handoff\nbest weights, fresh state", 3.0),
        (9.1, "phase two: SGD\nuntil validation stops improving", 3.6),
        (13.4, "test\nonce", 1.0),
    ]
    for x, text, width in steps:
        box(ax, x, y, text, TRAINING, width)
    for (x, _, width), (following, *_) in pairwise(steps):
        arrow(ax, (x + width, y), (following, y))


def main() -> None:
    """Write the picture beside this file, the same bytes every time."""
    plt.rcParams.update({"svg.hashsalt": "cxv", "svg.fonttype": "path", "font.size": 8})
    figure, ax = plt.subplots(figsize=(11.5, 3.2))
    network(ax, 2.0)
    training(ax, 0.0)
    ax.set(xlim=(-0.1, 14.5), ylim=(-0.5, 3.1), aspect="equal")
    ax.axis("off")
    path = Path(__file__).with_suffix("").with_name("architecture.svg")
    figure.savefig(path, bbox_inches="tight", facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
