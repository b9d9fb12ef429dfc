"""What every source returns, and how examples are held out of it: stratified, fixed by a seed."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cxv_jax.errors import InputError

TEST_FRACTION = 0.2  # Of a source that comes without a test split.
TEST_SEED = 20221  # A constant: runs with other seeds are measured on the same test images.


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with random access and their labels.

    Args:
      images: uint8 RGB ``[example, height, width, 3]``: an array, or any object with ``__len__``,
        ``image_shape`` and ``__getitem__(integer array) -> uint8 array`` (decoded when asked for).
      labels: int32 ``[example]``.
    """

    images: Any
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        shape = getattr(self.images, "image_shape", None)
        return shape or self.images.shape[1:]

    def take(self, index: Int[np.ndarray, " kept"]) -> "Split":
        """The examples at ``index``, in that order; copies pixels only if they are in memory."""
        lazy = not isinstance(self.images, np.ndarray) or isinstance(self.images, np.memmap)
        images = Rows(self.images, index) if lazy else self.images[index]
        return Split(images, self.labels[index])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named set of splits ``train``, ``val`` and ``test`` with one list of classes."""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, 3; the same in every split."""
        return self.splits["train"].image_shape

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
          InputError: if there is none, with the names of those that exist.
        """
        if name not in self.splits:
            raise InputError(f"{self.name} has no {name} split, only {', '.join(self.splits)}")
        return self.splits[name]


class Rows:
    """Some rows of lazily read images, in a given order."""

    def __init__(self, images: Any, index: np.ndarray):
        if isinstance(images, Rows):
            images, index = images.images, images.index[index]
        self.images: Any = images
        self.index: np.ndarray = index
        self.image_shape = Split(images, index).image_shape

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Pixels of the rows at ``index``."""
        return np.asarray(self.images[self.index[index]])


def hold_out(
    labels: Int[np.ndarray, " example"], count: Mapping[int, int], seed: int
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Pick ``count[c]`` examples of every class ``c``; return the indices ``(others, picked)``.

    Both are sorted. The first ``n`` picked of a class are the same for every count of at least
    ``n``. Random bits come straight from Philox, whose stream NumPy keeps the same for ever.
    """
    chosen = np.zeros(len(labels), bool)
    for label, number in count.items():
        members = np.flatnonzero(labels == label)
        bits = np.random.Philox(key=[seed % 2**64, label]).random_raw(len(members))
        chosen[members[np.argsort(bits, kind="stable")[:number]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def in_order(
    labels: Int[np.ndarray, " example"], count: Mapping[int, int], start: Mapping[int, int]
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """As :func:`hold_out`, without chance: of every class ``c`` those from ``start[c]`` on.

    The limited-data splits of Brigato et al. 2021 (arXiv 2108.13122; their repository
    lorenzobrigato/gem): split ``i`` of ``n`` images a class has, of each class in the files' order,
    the images ``i n`` to ``i n + n - 1``, and validates on the last of them (there 20 of 50).
    """
    chosen = np.zeros(len(labels), bool)
    for label, number in count.items():
        members = np.flatnonzero(labels == label)
        chosen[members[start[label] : start[label] + number]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def class_counts(labels: Int[np.ndarray, " example"], num_classes: int) -> dict[int, int]:
    """Examples of every class, zeros too."""
    return dict(enumerate(np.bincount(labels, minlength=num_classes).tolist()))


def fractions(counts: Mapping[int, int], fraction: float) -> dict[int, int]:
    """``round(fraction * n)`` of every class, at least 1 of a class that has 2 or more."""
    return {c: max(round(fraction * n), min(1, n - 1), 0) for c, n in counts.items()}


def complete(
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Split],
    *,
    seed: int,
    val_fraction: float,
    val_per_class: int,
    subset_per_class: int,
    order: int | None = None,
) -> Dataset:
    """Cut the source's own splits into ``train``, ``val`` and ``test``.

    1. No ``test``: ``val`` is taken for it, or else ``TEST_FRACTION`` of every class of train, by a
       constant seed.
    2. ``subset_per_class`` > 0: train keeps that many of every class, fixed by ``seed``.
    3. No ``val``: ``val_per_class``, or else ``val_fraction``, of what train then is, by ``seed``;
       so a limited-data study pays for its validation images. Both 0: no ``val``.

    With ``order`` steps 2 and 3 follow the files' order (split ``order`` of :func:`in_order`) in
    place of ``seed``.

    Raises:
      InputError: for a class too small for what is asked of it, or numbers out of range.
    """
    splits = dict(splits)
    classes = len(class_names)
    if not 0 <= val_fraction < 1 or val_per_class < 0 or subset_per_class < 0:
        raise InputError(
            f"data: expected 0 <= val_fraction < 1, val_per_class >= 0, subset_per_class >= 0, got "
            f"{val_fraction}, {val_per_class}, {subset_per_class}"
        )

    def cut(target: str, count: Mapping[int, int], seed: int, start: Any = None) -> None:
        labels = splits["train"].labels
        kept, held = (
            hold_out(labels, count, seed) if start is None else in_order(labels, count, start)
        )
        splits[target] = splits["train"].take(held)
        if target != "train":
            splits["train"] = splits["train"].take(kept)

    def counts() -> dict[int, int]:
        return class_counts(splits["train"].labels, classes)

    _refuse_small(name, class_names, counts(), 0, "in train")
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    if "test" not in splits:
        _refuse_small(name, class_names, counts(), 1, "to hold out a test split")
        cut("test", fractions(counts(), TEST_FRACTION), TEST_SEED)
    if subset_per_class:
        before = None if order is None else dict.fromkeys(counts(), order * subset_per_class)
        more_than = subset_per_class * (1 + (order or 0)) - 1
        _refuse_small(name, class_names, counts(), more_than, "for subset_per_class")
        cut("train", dict.fromkeys(counts(), subset_per_class), seed, before)
    if "val" not in splits and (val_per_class or val_fraction):
        _refuse_small(name, class_names, counts(), val_per_class or 1, "to hold out a val split")
        held = dict.fromkeys(counts(), val_per_class)
        held = held if val_per_class else fractions(counts(), val_fraction)
        rest = None if order is None else {c: n - held[c] for c, n in counts().items()}
        cut("val", held, seed + 1, rest)
    ordered = [key for key in ("train", "val", "test") if key in splits]
    return Dataset(name, tuple(class_names), {key: splits[key] for key in ordered})


def _refuse_small(
    name: str, class_names: Sequence[str], counts: Mapping[int, int], more_than: int, why: str
) -> None:
    for label, number in counts.items():
        if number <= more_than:
            raise InputError(
                f"{name}: class {class_names[label]!r} has {number} images, "
                f"at least {more_than + 1} are needed {why}"
            )
