"""Cross-validation: every image is test once, folds are alike, small classes are told of."""

import logging
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from cxv_jax.data.folds import Fold, deal
from cxv_jax.data.sources import load
from cxv_jax.data.splits import TEST_SEED, complete, hold_out
from cxv_jax.errors import InputError
from tests.data.test_splits import NONE, counts, ids, numbered


def folds_of(sizes: list[int], number: int, **fields):
    names, whole = [f"c{i}" for i in range(len(sizes))], {"train": numbered(sizes)}
    options: dict[str, Any] = NONE | fields
    return [complete("x", names, whole, fold=Fold(i, number), **options) for i in range(number)]


def test_every_image_is_test_once_and_never_trained_on_there() -> None:
    datasets = folds_of([23, 12, 7], 5, val_fraction=0.2)
    assert sorted(i for d in datasets for i in ids(d.splits["test"])) == list(range(42))
    for dataset in datasets:
        parts = [ids(split) for split in dataset.splits.values()]
        assert sorted(i for part in parts for i in part) == list(range(42))


@pytest.mark.parametrize("number", [2, 5, 7])
def test_folds_are_as_even_as_scikit_learns(number: int) -> None:
    sizes = [23, 12, 40]
    labels = numbered(sizes).labels
    theirs = StratifiedKFold(number).split(labels, labels)
    expected = np.sort([np.bincount(labels[test], minlength=3) for _, test in theirs], axis=0)
    datasets = folds_of(sizes, number)
    found = np.sort([counts(d.splits["test"]) for d in datasets], axis=0)
    np.testing.assert_array_equal(found, expected)  # Of each class, the same sizes.
    whole = [len(d.splits["test"]) for d in datasets]
    assert max(whole) - min(whole) <= 1


def test_the_first_of_a_class_by_rank_are_those_of_the_random_split() -> None:
    """Fold 0 begins with the rank that the random test split begins with."""
    labels = numbered([50, 10]).labels
    folds = deal(labels, 5, TEST_SEED)
    _, first = hold_out(labels, {0: 5, 1: 5}, TEST_SEED)
    for label in (0, 1):  # Five images of consecutive ranks are in five folds.
        assert sorted(folds[[i for i in first if labels[i] == label]]) == [0, 1, 2, 3, 4]
    _, one = hold_out(labels, {0: 1}, TEST_SEED)
    assert folds[one].tolist() == [0]


def test_a_small_class_is_spread_and_told_or_stays_in_train(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        spread = folds_of([20, 3], 5)
    assert "classes 'c1' (3) have fewer images than the 5 folds" in caplog.text
    tested = [np.bincount(d.splits["test"].labels, minlength=2)[1] for d in spread]
    trained = [np.bincount(d.splits["train"].labels, minlength=2)[1] for d in spread]
    assert sorted(tested) == [0, 0, 1, 1, 1]
    assert sorted(trained) == [2, 2, 2, 3, 3]
    caplog.clear()
    kept = folds_of([20, 3], 5, small_classes="train")
    assert "stay in train whole" in caplog.text
    assert all(counts(d.splits["test"]) == [4] for d in kept)
    assert all(counts(d.splits["train"]) == [16, 3] for d in kept)


@pytest.mark.parametrize(
    ("sizes", "number", "fields", "words"),
    [
        ([9, 9], 1, {}, "data.folds = 1 must be at least 2"),
        ([9, 1], 5, {}, "'c1' has 1 images, at least 2 are needed to hold out a test split"),
        ([2, 2], 5, {}, "4 images are too few for 5 folds"),
        ([9, 9], 5, {"subset_per_class": 3}, "subset_per_class = 0 must be kept"),
        ([4, 4], 5, {"small_classes": "train"}, "no class has more than 4 images"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    sizes: list[int], number: int, fields: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        folds_of(sizes, number, **fields)


def test_a_source_s_own_splits_and_a_fold_beyond_the_last_are_refused() -> None:
    parts = {"train": numbered([9, 9]), "test": numbered([5, 5], 100)}
    options: dict[str, Any] = NONE
    with pytest.raises(InputError, match=r"x has splits of its own \(train, test\)"):
        complete("x", ["a", "b"], parts, fold=Fold(0, 5), **options)
    with pytest.raises(InputError, match="data.split_index = 5 one of 0 to folds - 1"):
        load("digits", splits="folds", split_index=5)


def test_folds_are_a_split_kind_of_every_source() -> None:
    test = [load("digits", splits="folds", split_index=i, folds=3).split("test") for i in range(3)]
    assert [len(split) for split in test] == [599, 599, 599]
    assert len(set().union(*(split.names for split in test))) == 1797
