"""What every source returns, and how examples are held out of it: stratified, fixed by a seed."""

import dataclasses
import logging
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int

from cxv_jax.data.folds import Fold, ranks
from cxv_jax.errors import InputError, nearest

TEST_FRACTION = 0.2  # Of a source that comes without a test split.
TOO_SMALL = 5  # A fifth of fewer images of a class is less than one.
NAMED = 10  # So many classes are named in a message.
TEST_SEED = 20221  # A constant: runs with other seeds are measured on the same test images.


@dataclasses.dataclass(frozen=True)
class Split:
    """Images with random access and their labels.

    Args:
      images: uint8 RGB ``[example, height, width, 3]``: an array, or any object with ``__len__``,
        ``image_shape`` and ``__getitem__(integer array) -> uint8 array`` (decoded when asked for).
      labels: int32 ``[example]``.
      white: the value that was read as 255 where the source has more than 8 bits; 0: it has 8.
      names: of the examples in their source, an array of texts; None: rows that have no names.
    """

    images: Any
    labels: np.ndarray
    white: float = 0.0
    names: Any = None

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
        names = None if self.names is None else self.names[index]
        return dataclasses.replace(self, images=images, labels=self.labels[index], names=names)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named set of splits ``train``, ``val`` and ``test`` with one list of classes.

    ``images`` counts those of the source, also the ones that are in no split.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    images: int = 0

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, 3; the same in every split."""
        return next(iter(self.splits.values())).image_shape

    @property
    def white(self) -> float:
        """See :class:`Split`; the same in every split."""
        return max(split.white for split in self.splits.values())

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
    ``n``; their order is that of :func:`cxv_jax.data.folds.ranks`.
    """
    chosen = np.zeros(len(labels), bool)
    for label, number in count.items():
        chosen[ranks(labels, label, seed)[:number]] = True
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


def only(
    name: str, class_names: Sequence[str], splits: Mapping[str, Split], classes: Sequence[str]
) -> dict[str, Split]:
    """The examples of ``classes``, labelled by their place there; a split without any is left out.

    Raises:
      InputError: an unknown class, the same one twice, or fewer than two.
    """
    if unknown := [c for c in classes if c not in class_names]:
        near = nearest(str(unknown[0]), class_names)
        raise InputError(f"data.classes: {name} has no class {unknown[0]!r}{near}")
    if len(set(classes)) < max(2, len(classes)):
        raise InputError(f"data.classes: expected two or more different ones, got {classes}")
    places = np.full(len(class_names), -1, np.int32)
    places[[list(class_names).index(c) for c in classes]] = np.arange(len(classes))
    kept = {
        key: split.take(np.flatnonzero(places[split.labels] >= 0)) for key, split in splits.items()
    }
    return {
        key: dataclasses.replace(split, labels=places[split.labels])
        for key, split in kept.items()
        if len(split)
    }


def class_counts(labels: Int[np.ndarray, " example"], num_classes: int) -> dict[int, int]:
    """Examples of every class, zeros too."""
    return dict(enumerate(np.bincount(labels, minlength=num_classes).tolist()))


def fractions(counts: Mapping[int, int], fraction: float) -> dict[int, int]:
    """``round(fraction * n)`` of every class that has 2 or more, at least 1 and never all."""
    return {c: max(min(max(round(fraction * n), 1), n - 1), 0) for c, n in counts.items()}


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
    fold: Fold | None = None,
    small_classes: str = "split",
) -> Dataset:
    """Cut the source's own splits into ``train``, ``val`` and ``test``.

    1. No ``test``: ``val`` (Tiny ImageNet, whose test labels are not public) is taken for it, or
       else ``TEST_FRACTION`` of every class of train, or ``fold``, by a constant seed.
    2. ``subset_per_class`` > 0: train keeps that many of every class, fixed by ``seed``.
    3. No ``val``: ``val_per_class``, or else ``val_fraction``, of what train then is, by ``seed``;
       so a limited-data study pays for its validation images. Both 0: no ``val``.

    With ``order`` steps 2 and 3 follow the files' order (split ``order`` of :func:`in_order`). A
    class of fewer images than ``TOO_SMALL``, or than folds, is told; ``small_classes="train"``
    keeps it whole.

    Raises:
      InputError: for a class too small for what is asked of it, or numbers out of range.
    """
    images, own, splits = sum(map(len, splits.values())), set(splits), dict(splits)
    _check_numbers(val_fraction, val_per_class, subset_per_class)
    _check_names(name, class_names)
    if fold:
        fold.check(name, splits, subset_per_class)
    counts = partial(_left, splits, len(class_names))
    _refuse_small(name, class_names, counts(), 0, "in train")
    small = {c: n for c, n in counts().items() if n < (fold.number if fold else TOO_SMALL)}
    whole = _whole(name, small, small_classes, counts())
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    if "test" not in splits:
        _refuse_small(name, class_names, counts(whole), 1, "to hold out a test split")
        share, labels = fractions(counts(whole), TEST_FRACTION), splits["train"].labels
        cut = fold and fold.cut(name, labels, TEST_SEED, whole)
        _take(splits, "test", *(cut or hold_out(labels, share, TEST_SEED)))
    if subset_per_class:
        more_than = subset_per_class * (1 + (order or 0)) - 1
        _refuse_small(name, class_names, counts(), more_than, "for subset_per_class")
        before = None if order is None else dict.fromkeys(counts(), order * subset_per_class)
        _cut(splits, "train", dict.fromkeys(counts(), subset_per_class), seed, before)
    if "val" not in splits and (val_per_class or val_fraction):
        left = counts(whole)
        _refuse_small(name, class_names, left, val_per_class or 1, "to hold out a val split")
        held = fractions(left, val_fraction)
        held = dict.fromkeys(left, val_per_class) if val_per_class else held
        rest = None if order is None else {c: n - held[c] for c, n in left.items()}
        _cut(splits, "val", held, seed + 1, rest)
    if small and not set(splits) <= own:
        _tell_small({class_names[c]: n for c, n in small.items()}, name, bool(whole), fold)
    ordered = [key for key in ("train", "val", "test") if key in splits]
    return Dataset(name, tuple(class_names), {key: splits[key] for key in ordered}, images)


def _left(
    splits: Mapping[str, Split], num_classes: int, but: Collection[int] = ()
) -> dict[int, int]:
    """What train has of each class, but for some of them."""
    found = class_counts(splits["train"].labels, num_classes)
    return {c: n for c, n in found.items() if c not in but}


def _whole(
    name: str, small: Mapping[int, int], small_classes: str, counts: Mapping[int, int]
) -> Collection[int]:
    """The classes that stay whole in train."""
    whole = small if small_classes == "train" else ()
    if len(whole) == len(counts):
        most = max(counts.values())
        raise InputError(f"{name}: no class has more than {most} images, all are small; add some")
    return whole


def _check_numbers(val_fraction: float, val_per_class: int, subset_per_class: int) -> None:
    if not 0 <= val_fraction < 1 or val_per_class < 0 or subset_per_class < 0:
        raise InputError(
            f"data: expected 0 <= val_fraction < 1, val_per_class >= 0, subset_per_class >= 0, got "
            f"{val_fraction}, {val_per_class}, {subset_per_class}"
        )


def _cut(
    splits: dict[str, Split],
    target: str,
    count: Mapping[int, int],
    seed: int,
    start: Mapping[int, int] | None = None,
) -> None:
    """Move ``count`` examples of every class from train to ``target``, or keep only those."""
    labels = splits["train"].labels
    if start is None:
        _take(splits, target, *hold_out(labels, count, seed))
    else:
        _take(splits, target, *in_order(labels, count, start))


def _take(splits: dict[str, Split], target: str, kept: np.ndarray, held: np.ndarray) -> None:
    train = splits["train"]
    splits[target] = train.take(held)
    if target != "train":
        splits["train"] = train.take(kept)


def _refuse_small(
    name: str, class_names: Sequence[str], counts: Mapping[int, int], more_than: int, why: str
) -> None:
    """Name all classes that are too small, and the remedy."""
    small = [
        f"class {class_names[c]!r} has {n} images" for c, n in counts.items() if n <= more_than
    ]
    if small:
        more = [f"{len(small) - NAMED} more classes too few"] if len(small) > NAMED else []
        remedy = "add some or leave the class out"
        if "hold out" in why:
            remedy += ", or set config.data.small_classes=train to hold nothing out of such classes"
        raise InputError(
            f"{name}: {', '.join(small[:NAMED] + more)}, at least {more_than + 1} are needed {why}"
            f"; {remedy}"
        )


def _tell_small(small: Mapping[str, int], name: str, whole: bool, fold: Fold | None) -> None:
    named = ", ".join(f"{c!r} ({n})" for c, n in list(small.items())[:NAMED])
    more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    remedy = "add images, leave them out, or set config.data.small_classes=train to train on all"
    if whole:
        advice = "stay in train whole: the figures on held-out images say nothing of them"
    elif fold is None:
        advice = "too small for a split: held out all the same, so their figures mean little; "
        advice += f"{remedy} of them"
    else:
        advice = f"have fewer images than the {fold.number} folds: each of their images is in test "
        advice += f"once, the other folds say nothing of them; {remedy} of them"
    logging.getLogger(__name__).warning("%s: classes %s%s %s", name, named, more, advice)


def _check_names(name: str, class_names: Sequence[str]) -> None:
    """Names that print alike, or not at all, would be confused in every table."""
    seen: dict[str, str] = {}
    for class_name in class_names:
        if not class_name.isprintable():
            raise InputError(f"{name}: class {class_name!a} cannot be printed; rename it")
        other = seen.setdefault(unicodedata.normalize("NFC", class_name).strip(), class_name)
        if other != class_name:
            raise InputError(f"{name}: classes {other!a} and {class_name!a} look alike; rename one")
