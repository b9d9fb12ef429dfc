"""Sets of the Hugging Face library, written by it to a folder: there is no hub in a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data import hugging_face, sources
from cxv_jax.errors import InputError
from experiments import own_pictures

datasets = pytest.importorskip("datasets", reason="datasets is only in the extra hf")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 3), np.uint8)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(kind: object, labels: list, rows: range) -> Any:
    pictures = [Image.new("RGB", (12, 10), tuple(COLOURS[i].tolist())) for i in rows]
    columns = {"note": ["x"] * len(rows), "img": pictures, "label": labels}
    features = {"note": datasets.Value("string"), "img": datasets.Image(), "label": kind}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def parquet(tmp_path: Path) -> str:
    """16 pictures of train, 8 of test, the last of which has no label."""
    kind = datasets.ClassLabel(names=["zebra", "ape"])
    table(kind, [0, 1] * 8, range(16)).to_parquet(tmp_path / "set/train.parquet")
    table(kind, [0, 1] * 3 + [1, -1], range(16, 24)).to_parquet(tmp_path / "set/test.parquet")
    return f"hf:{tmp_path}/set"


def test_pictures_classes_and_splits_are_those_of_the_set(parquet: str) -> None:
    dataset = sources.load(parquet, image_size=8, val_fraction=0.25)
    assert dataset.class_names == ("zebra", "ape")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 12,
        "val": 4,
        "test": 7,
    }
    test = dataset.split("test")
    np.testing.assert_array_equal(test.images[:, 4, 4], COLOURS[16:23])
    assert test.labels.tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert list(test.names[:2]) == ["test/0", "test/1"]


def test_labels_that_are_words_are_sorted_and_folders_of_save_to_disk_are_read(
    tmp_path: Path,
) -> None:
    words = table(datasets.Value("string"), ["owl", "cat"] * 12, range(24))
    words.save_to_disk(tmp_path / "one")
    names, splits = hugging_face.read(f"{tmp_path}/one", 8, "refuse")
    assert names == ["cat", "owl"]
    assert splits["train"].labels.tolist() == [1, 0] * 12
    datasets.DatasetDict({"test": words}).save_to_disk(tmp_path / "two")
    outside = sources.outside(
        f"hf:{tmp_path}/two", "test", class_names=["owl", "ant", "cat"], image_size=8
    )
    assert outside.split("test").labels.tolist() == [0, 2] * 12


def test_data_of_a_set_chooses_a_config(parquet: str) -> None:
    look = own_pictures.look(parquet)
    assert (look.source, look.side, look.image_size, look.counts) == (parquet, 10, 10, (8, 8))
    assert own_pictures.choose(look).data.source == parquet


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "cannot be loaded"),
        (lambda p: (p / "set").mkdir(), "cannot be loaded"),
        (
            lambda p: datasets.Dataset.from_dict({"x": [1]}).to_parquet(p / "set/train.parquet"),
            r"expected a column of images and one of labels, found \['x'\]",
        ),
        (
            lambda p: table(datasets.Value("string"), ["a"] * 4, range(4)).to_parquet(
                p / "set/train.parquet"
            ),
            r"1 classes \['a'\], at least 2",
        ),
        (
            lambda p: table(datasets.Value("float32"), [0.5] * 4, range(4)).to_parquet(
                p / "set/train.parquet"
            ),
            "column label has float, expected classes",
        ),
        (
            lambda p: table(datasets.Value("string"), ["a", "b"], range(2)).to_parquet(
                p / "set/test.parquet"
            ),
            "no train split, only test",
        ),
    ],
    ids=["absent", "empty", "no pictures", "one class", "no classes", "no train"],
)
def test_what_is_no_set_of_pictures_is_one_line(
    tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=words) as refused:
        sources.load(f"hf:{tmp_path}/set", image_size=8)
    assert "\n" not in str(refused.value)


def test_a_picture_that_cannot_be_read_and_a_missing_size_are_told(tmp_path: Path) -> None:
    kind = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.Value("string")}
    )
    rows = {"image": [{"bytes": b"no picture", "path": None}] * 4, "label": ["a", "b"] * 2}
    datasets.Dataset.from_dict(rows, features=kind).to_parquet(tmp_path / "set/train.parquet")
    with pytest.raises(InputError, match=r"4 of 4 images cannot be read: 0 \(not an image"):
        sources.load(f"hf:{tmp_path}/set", image_size=8)
    with pytest.raises(InputError, match="set config.data.image_size"):
        sources.load(f"hf:{tmp_path}/set")


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'cxv_jax\[hf\]'"):
        hugging_face.read("cifar10", 8, "refuse")
