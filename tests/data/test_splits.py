"""What is held out: stratified, fixed by seed, disjoint; and the digits."""

import numpy as np
import pytest
import sklearn.datasets

from cxv_jax.data.sources import load
from cxv_jax.data.splits import Split, complete, hold_out
from cxv_jax.errors import InputError

NONE = dict(seed=0, val_fraction=0.0, val_per_class=0, subset_per_class=0)


def numbered(counts: list[int], first: int = 0) -> Split:
    """Images whose pixels tell which example they are; ``counts`` of every class, shuffled."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.default_rng(0).permutation(labels)
    ids = np.arange(first, first + len(labels))
    images = np.stack([ids // 256, ids % 256, labels], -1).astype(np.uint8)[:, None, None]
    return Split(images, labels)


def ids(split: Split) -> list[int]:
    pixels = split.images[np.arange(len(split))][:, 0, 0].astype(int)
    assert (pixels[:, 2] == split.labels).all()  # Images and labels stay together.
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def counts(split: Split) -> list[int]:
    return np.bincount(split.labels).tolist()


def make(splits, **kwargs):
    return complete("source", ["a", "b", "c"], splits, **(NONE | kwargs))


def test_a_source_without_splits_gets_all_three():
    dataset = make({"train": numbered([100, 50, 10])}, val_fraction=0.1)
    assert list(dataset.splits) == ["train", "val", "test"]
    assert counts(dataset.splits["test"]) == [20, 10, 2]
    assert counts(dataset.splits["val"]) == [8, 4, 1]
    everything = sorted(i for split in dataset.splits.values() for i in ids(split))
    assert everything == list(range(160))


def test_the_test_split_does_not_depend_on_the_seed_and_validation_does():
    one, two = (make({"train": numbered([40] * 3)}, val_fraction=0.1, seed=s) for s in (0, 1))
    assert ids(one.splits["test"]) == ids(two.splits["test"])
    assert ids(one.splits["val"]) != ids(two.splits["val"])
    again = make({"train": numbered([40] * 3)}, val_fraction=0.1, seed=1)
    assert ids(again.splits["val"]) == ids(two.splits["val"])


def test_validation_never_touches_test():
    test = numbered([5, 5, 5], first=1000)
    dataset = make({"train": numbered([30, 20, 10]), "test": test}, val_per_class=4)
    assert counts(dataset.splits["val"]) == [4, 4, 4]
    assert counts(dataset.splits["train"]) == [26, 16, 6]
    assert ids(dataset.splits["test"]) == ids(test)
    assert not set(ids(dataset.splits["val"])) & set(ids(dataset.splits["train"]))


def test_the_source_s_own_validation_wins_only_beside_its_own_test():
    train, val, test = numbered([9] * 3), numbered([3] * 3, 100), numbered([2] * 3, 200)
    dataset = make({"train": train, "val": val, "test": test}, val_fraction=0.5)
    assert [ids(s) for s in dataset.splits.values()] == [ids(train), ids(val), ids(test)]
    dataset = make({"train": train, "val": val}, val_per_class=2)
    assert ids(dataset.splits["test"]) == ids(val)
    assert counts(dataset.splits["val"]) == [2, 2, 2]


def test_no_validation_when_none_is_asked_for():
    dataset = make({"train": numbered([5] * 3), "test": numbered([1] * 3)})
    with pytest.raises(InputError, match="source has no val split, only train, test"):
        dataset.split("val")


def test_a_subset_is_taken_first_and_validation_out_of_it():
    splits = {"train": numbered([50, 40, 30]), "test": numbered([5] * 3)}
    small, large = (
        make(splits, subset_per_class=n, val_per_class=v, seed=7) for n, v in ((10, 2), (20, 0))
    )
    assert counts(small.splits["train"]) == [8, 8, 8]
    assert counts(small.splits["val"]) == [2, 2, 2]
    within = set(ids(small.splits["train"])) | set(ids(small.splits["val"]))
    assert within < set(ids(large.splits["train"]))
    assert counts(small.splits["test"]) == [5, 5, 5]


def test_every_example_is_held_out_equally_often():
    labels = np.zeros(20, np.int32)
    held = np.bincount(np.concatenate([hold_out(labels, {0: 5}, s)[1] for s in range(400)]))
    assert held.sum() == 2000
    assert (abs(held - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_held_out_examples_are_the_same_for_ever():
    assert hold_out(np.zeros(20, np.int32), {0: 5}, 3)[1].tolist() == [1, 6, 11, 13, 18]


@pytest.mark.parametrize(
    ("number", "kwargs", "message"),
    [
        (0, {}, "class 'b' has 0 images, at least 1 are needed in train"),
        (1, {}, "class 'b' has 1 images, at least 2 are needed to hold out a test split"),
        (5, dict(val_per_class=4), "class 'b' has 4 images, at least 5 .* a val split"),
        (2, dict(val_fraction=0.1), "class 'b' has 1 images, at least 2 .* a val split"),
        (9, dict(subset_per_class=8), "class 'b' has 7 images, at least 8 .* subset_per_class"),
        (9, dict(val_fraction=1.0), "0 <= val_fraction < 1"),
        (9, dict(val_per_class=-1), "val_per_class >= 0"),
    ],
)
def test_too_few_images(number, kwargs, message):
    with pytest.raises(InputError, match=message):
        make({"train": numbered([20, number, 20])}, **kwargs)


def test_lazy_images_are_read_through_every_cut(tmp_path):
    whole = numbered([30, 30, 30])
    np.save(tmp_path / "images.npy", whole.images)
    lazy = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), whole.labels)
    asked = dict(val_fraction=0.2, subset_per_class=10)
    for split, other in zip(
        make({"train": lazy}, **asked).splits.values(),
        make({"train": whole}, **asked).splits.values(),
        strict=True,
    ):
        assert ids(split) == ids(other)
        assert not isinstance(split.images, np.ndarray)
        assert len(split.images) == len(split)
        assert split.image_shape == (1, 1, 3)


def test_digits():
    dataset, other = load("digits"), load("digits", seed=1)
    digits = sklearn.datasets.load_digits()
    assert dataset.class_names == tuple("0123456789")
    assert dataset.image_shape == (8, 8, 3)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 1295,
        "val": 143,
        "test": 359,
    }
    np.testing.assert_array_equal(dataset.splits["test"].images, other.splits["test"].images)
    images = np.concatenate([split.images for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    got = sorted(
        (image[..., 0].tobytes(), label) for image, label in zip(images, labels, strict=True)
    )
    grey = (digits.images * 255 / 16 + 0.5).astype(np.uint8)
    expected = sorted((i.tobytes(), label) for i, label in zip(grey, digits.target, strict=True))
    assert got == expected
    assert (images == images[..., :1]).all()


def test_unknown_sources_and_options():
    for source in ("mnist", "digits:8", "folder:", "npz", "tfds"):
        with pytest.raises(InputError, match=f"{source!r} is none of digits, cifar10"):
            load(source)
    with pytest.raises(InputError, match="expected refuse or skip, got 'ignore'"):
        load("digits", on_bad_image="ignore")
    with pytest.raises(InputError, match="image_size"):
        load("digits", image_size=-1)
    with pytest.raises(InputError, match="image_size: expected 0 to 4096, got 1000000"):
        load("digits", image_size=10**6)


def test_gem_splits_follow_the_files_order() -> None:
    """Split i of n images a class: images i n to i n + n - 1 of each class, the last validate."""
    train, test = numbered([40, 40, 40]), numbered([5, 5, 5], first=1000)
    members = [np.flatnonzero(train.labels == c) for c in range(3)]
    for index in range(3):
        both = {"train": train, "test": test}
        dataset = make(both, subset_per_class=10, val_per_class=4, order=index, seed=7)
        wanted = {"train": slice(10 * index, 10 * index + 6)}
        wanted["val"] = slice(10 * index + 6, 10 * index + 10)
        for name, part in wanted.items():
            expected = sorted(int(i) for rows in members for i in rows[part])
            assert ids(dataset.splits[name]) == expected
        whole = make(both, subset_per_class=10, order=index)
        assert list(whole.splits) == ["train", "test"]
        assert counts(whole.splits["train"]) == [10, 10, 10]
    with pytest.raises(InputError, match="at least 50 are needed for subset_per_class"):
        make({"train": train, "test": test}, subset_per_class=10, order=4)


def test_splits_are_random_folds_or_gem() -> None:
    with pytest.raises(InputError, match="expected random or folds or gem, got 'fixed'"):
        load("digits", splits="fixed")
