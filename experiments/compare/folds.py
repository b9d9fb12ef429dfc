"""Cross-validation in a comparison's report: all folds' test images together, beside a guess."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from cxv_jax import plots
from cxv_jax.figures import ClassFigures, between, bootstrap, interval
from cxv_jax.tables import markdown
from cxv_jax.text import percent, printable
from experiments.compare.rows import BY_CLASS, Mean, Rows, main_kind, mean_of, ranked

MOST_CLASSES = 20  # Of more there is a picture of the matrix, and no tables.
NOTE = """
All test images of the folds together; each was tested once, by a network that had not seen it. In
brackets 95 % intervals: of accuracy Wilson's, of the means over classes a bootstrap over the images
(2,000 draws, percentiles), which knows nothing but these images: of a class of three it tells
little. Neither knows what other training images would have made of the network: the mean and the
standard deviation over folds, each by itself, tell some of that; a fold leaves out classes that
its test lacks. *always* is a guess that looks at no image."""


class Pooled(NamedTuple):
    """The folds of a system, together.

    Attributes:
      name: of the system.
      classes: their names.
      confusion: images by (true class, predicted class), of all its finished folds.
      folds: how many those are.
      of_folds: balanced accuracy, macro-F1 and AUROC, each the mean over these folds.
    """

    name: str
    classes: list[str]
    confusion: Int[np.ndarray, "classes classes"]
    folds: int
    of_folds: list[Mean | None]

    @property
    def images(self) -> int:
        """Tested so far."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Over all of them."""
        return float(self.confusion.trace() / self.images)

    def guess(self) -> "Pooled":
        """Always the most frequent class."""
        counts = self.confusion.sum(1)
        confusion = np.zeros_like(self.confusion)
        confusion[:, counts.argmax()] = counts
        name = f"always {self.classes[counts.argmax()]}"
        return self._replace(name=name, confusion=confusion, of_folds=[None, None, None])


def pooled(rows: Rows) -> list[Pooled]:
    """Every system of which a fold is finished, the best mean top-1 first."""
    found = []
    for system in ranked(rows):
        mine = [r for r in rows if r["system"] == system and r["handoff"] == main_kind(rows)]
        mine = [row for row in mine if row["status"] == "finished" and row["confusion"]]
        if mine:
            means = [mean_of(row[field] for row in mine) for field in BY_CLASS]
            confusion = np.sum([row["confusion"] for row in mine], axis=0)
            found.append(Pooled(system, mine[0]["classes"], confusion, len(mine), means))
    return found


def section(config: ConfigDict, rows: Rows, folder: Path) -> list[str]:
    """What the folds say together, as lines of Markdown; draws ``confusion_SYSTEM.png``."""
    if config.data.splits != "folds" or not (systems := pooled(rows)):
        return []
    head = ["", "images", "accuracy", "balanced accuracy", "macro-F1"]
    head += [f"{name}, mean of folds" for name in ("balanced accuracy", "macro-F1", "AUROC")]
    lines = [f"## {config.data.folds}-fold cross-validation\n"]
    lines += markdown(head, [_row(each) for each in (*systems, systems[0].guess())])
    lines.append(NOTE)
    for system in systems:
        lines += ["", f"### {system.name}\n", *_matrix(system, config.data.folds, folder)]
    return lines


def told(config: ConfigDict, rows: Rows) -> list[str]:
    """The same for the screen, in a line for each system and one for the guess."""
    systems = pooled(rows) if config.data.splits == "folds" else []
    guess = [systems[0].guess()] if systems else []
    lines = [
        f"{each.name}: {each.images:,} images of {each.folds} folds, accuracy "
        f"{percent(each.accuracy)} ({between(each.accuracy, each.images)})"
        + "".join(f", {name} {text}" for name, text in _means(each).items())
        for each in (*systems, *guess)
    ]
    return lines


def _row(each: Pooled) -> list[str]:
    accuracy = f"{100 * each.accuracy:.1f} ({between(each.accuracy, each.images)})"
    folds = [
        "-"
        if mean is None
        else f"{100 * mean.mean:.1f}"
        + ("" if mean.deviation is None else f" ± {100 * mean.deviation:.1f}")
        for mean in each.of_folds
    ]
    return [_cell(each.name), f"{each.images:,}", accuracy, *_means(each).values(), *folds]


def _means(each: Pooled) -> dict[str, str]:
    """The means over classes, with their intervals."""
    figures: dict[str, Callable[[ClassFigures], float]] = {
        "balanced accuracy": lambda of: of.balanced_accuracy,
        "macro-F1": lambda of: of.macro_f1,
    }
    found = ClassFigures.of(each.confusion)
    return {
        name: f"{100 * figure(found):.1f} ({interval(*bootstrap(each.confusion, figure))})"
        for name, figure in figures.items()
    }


def _matrix(system: Pooled, folds: int, folder: Path) -> list[str]:
    """The pooled confusion matrix as a table and a picture, and the figures of each class."""
    title = f"{system.name}: {system.folds} of {folds} folds, accuracy {percent(system.accuracy)}"
    file = f"confusion_{system.name}.png"
    plots.confusion(system.confusion, system.classes, folder / file, title=title)
    picture = f"![the confusion matrix of {system.name}]({file})"
    if len(system.classes) > MOST_CLASSES:
        return [picture]
    names, of = [_cell(name) for name in system.classes], ClassFigures.of(system.confusion)
    head = ["true class", *(f"as {name}" for name in names), "images", "precision %", "recall %"]
    columns = zip(names, system.confusion, of.counts, of.precision, of.recall, strict=True)
    rows = [
        [name, *map(str, row), str(count), _share(precision), _share(recall)]
        for name, row, count, precision, recall in columns
    ]
    return [*markdown(head, rows), "", picture]


def _cell(name: str) -> str:
    return printable(name).replace("|", "\\|")


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
