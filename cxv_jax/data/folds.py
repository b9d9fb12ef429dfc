"""Cross-validation: the images in parts of equal size and mix, of which each is test once."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cxv_jax.errors import InputError


class Fold(NamedTuple):
    """Fold ``which`` of ``number``, from 0: its images are test, all others train."""

    which: int
    number: int

    def check(self, name: str, parts: Collection[str], subset_per_class: int) -> None:
        """Refuse what no cross-validation can be made of.

        Raises:
          InputError: numbers out of range, a source with a test split of its own, a subset.
        """
        if self.number < 2 or not 0 <= self.which < self.number:
            raise InputError(
                f"data.folds = {self.number} must be at least 2 and data.split_index = "
                f"{self.which} one of 0 to folds - 1"
            )
        if set(parts) != {"train"}:
            raise InputError(
                f"{name} has splits of its own ({', '.join(parts)}), which folds would mix: leave "
                "config.data.splits=random, or put all images of a class into one folder"
            )
        if subset_per_class:
            raise InputError("data.subset_per_class = 0 must be kept with splits=folds")

    def cut(
        self, name: str, labels: Int[np.ndarray, " example"], seed: int, but: Collection[int] = ()
    ) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
        """The indices ``(train, test)``, both sorted; classes in ``but`` stay in train.

        Raises:
          InputError: there are fewer images than folds.
        """
        folds = deal(labels, self.number, seed, but)
        if (folds >= 0).sum() < self.number:
            raise InputError(
                f"{name}: {(folds >= 0).sum()} images are too few for {self.number} "
                "folds; add some or lower config.data.folds"
            )
        return np.flatnonzero(folds != self.which), np.flatnonzero(folds == self.which)


def deal(
    labels: Int[np.ndarray, " example"], number: int, seed: int, but: Collection[int] = ()
) -> Int[np.ndarray, " example"]:
    """The fold, from 0, in whose test each example is; -1 for the classes in ``but``.

    The examples of a class are dealt one by one to folds 0, 1, ..., in the order of their ranks,
    and the next class goes on at the fold after. So two folds differ by at most one example, of
    each class and in all. A class of fewer examples than folds is in test of so many folds.
    """
    folds, dealt = np.full(len(labels), -1), 0
    for label in np.setdiff1d(labels, list(but)):
        order = ranks(labels, int(label), seed)
        folds[order] = (dealt + np.arange(len(order))) % number
        dealt += len(order)
    return folds


def ranks(
    labels: Int[np.ndarray, " example"], label: int, seed: int
) -> Int[np.ndarray, " members"]:
    """The examples of a class in an order that ``seed`` fixes.

    Random bits come straight from Philox, whose stream NumPy keeps the same for ever.
    """
    members = np.flatnonzero(labels == label)
    bits = np.random.Philox(key=[seed % 2**64, label]).random_raw(len(members))
    return members[np.argsort(bits, kind="stable")]
