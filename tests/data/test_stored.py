"""A run keeps its splits: no image changes sides when the data does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data.sources import load
from cxv_jax.data.splits import Dataset
from cxv_jax.data.stored import Stored, check
from cxv_jax.errors import InputError


def pictures(folder: Path, classes: dict[str, int], first: int = 0) -> Path:
    """``classes`` with so many 4x4 pictures each, all of them different."""
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + count):
            pixels = np.full((4, 4, 3), (label, i // 256, i % 256), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:04}.png")
    return folder


def opened(folder: Path, keep: Stored | None = None, **options: Any) -> Dataset:
    return load(f"folder:{folder}", image_size=4, val_fraction=0.2, keep=keep, **options)


def ids(dataset: Dataset, split: str) -> list[tuple[int, ...]]:
    return [tuple(x[0, 0].tolist()) for x in np.asarray(dataset.splits[split].images[:])]


@pytest.mark.parametrize("options", [{}, {"subset_per_class": 6}])
def test_added_pictures_leave_the_splits_as_they_were(tmp_path: Path, options: dict) -> None:
    folder = pictures(tmp_path, {"a": 20, "b": 12})
    before = opened(folder, **options)
    kept = Stored.from_json(json.loads(json.dumps(Stored.of(before).to_json())))
    pictures(folder, {"a": 9, "b": 9}, first=100)
    anew, after = opened(folder, **options), opened(folder, kept, **options)
    assert options or set(ids(anew, "test")) & set(ids(before, "train"))  # What would go wrong.
    for split in before.splits:
        assert ids(after, split) == ids(before, split)
        assert after.splits[split].labels.tolist() == before.splits[split].labels.tolist()
    assert Stored.of(after).digest == Stored.of(before).digest
    check("x", Stored.of(after), before.class_names, kept.digest)
    with pytest.raises(InputError, match="changed since"):
        check("x", Stored.of(anew), before.class_names, kept.digest)


def change(folder: Path, kind: str) -> None:
    if kind == "renamed":
        (folder / "a").rename(folder / "z")
    elif kind == "added":
        pictures(folder, {"a": 0, "aa": 9})
    elif kind == "gone":
        for file in sorted(folder.glob("b/*"))[:9]:
            file.unlink()
    elif kind == "moved":
        for file in (folder / "b").iterdir():
            file.rename(folder / "a" / f"b{file.name}")
        pictures(folder, {"a": 0, "b": 9}, first=500)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("renamed", "new: 'z'; gone: 'a'"),
        ("added", "new: 'aa'"),
        ("gone", "images of the run's train split are gone.*'train/b/0002.png'"),
        ("moved", "images of the run's train split are gone or moved to another class"),
    ],
)
def test_what_cannot_be_restored_is_refused_in_words(tmp_path: Path, kind: str, words: str) -> None:
    folder = pictures(tmp_path, {"a": 20, "b": 12})
    kept = Stored.of(opened(folder))
    change(folder, kind)
    with pytest.raises(InputError, match=words):
        opened(folder, kept)


def test_changed_labels_of_rows_are_refused(tmp_path: Path) -> None:
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    labels, file = np.arange(40) % 2, tmp_path / "x.npz"

    def opened(keep: Stored | None = None) -> Dataset:
        np.savez(file, images=images, labels=labels)
        return load(f"npz:{file}", keep=keep)

    kept = Stored.of(opened())
    assert kept.names["test"][0].startswith("train/")
    assert ids(opened(kept), "test") == ids(opened(), "test")
    labels[int(kept.names["test"][0].removeprefix("train/"))] ^= 1
    with pytest.raises(InputError, match="labels of the run's test split have changed"):
        opened(kept)


def test_only_the_split_that_is_wanted_has_to_be_there(tmp_path: Path) -> None:
    folder = pictures(tmp_path, {"a": 20, "b": 12})
    before = opened(folder)
    kept = Stored.of(before)
    for name in kept.names["train"]:
        (folder / name.removeprefix("train/")).unlink()
    after = load(f"folder:{folder}", image_size=4, keep=kept, wanted=["test"])
    assert list(after.splits) == ["test"]
    assert ids(after, "test") == ids(before, "test")


@pytest.mark.parametrize("data", [[], {}, {"class_names": [1], "names": {}, "labels": {}}, None])
def test_other_data_is_no_record(data: object) -> None:
    with pytest.raises(TypeError):
        Stored.from_json(data)
