"""Reading sets that TFDS has prepared: pixels, what is kept beside them, what is refused."""

import errno
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cxv_jax.data import prepared
from cxv_jax.data.cifar_files import CLASSES
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError
from tests.data.small_sets import cifar_files

Rows = Iterable[tuple[Any, ...]]


def prepare(
    place: Path, name: str, features: dict[str, Any], splits: Mapping[str, Rows], **fields: Any
) -> None:
    """Let TFDS write rows of a picture, a label, ... as ``NAME/VERSION`` of ArrayRecord files.

    Pictures are PIL's: an array would be encoded by TensorFlow.
    """

    class Small(  # type: ignore[call-arg]  # tfds does not tell of it.
        tfds.core.GeneratorBasedBuilder, skip_registration=True
    ):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=tuple(features)[:2],
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            for i, row in enumerate(rows):
                yield i, dict(zip(features, row, strict=True))

    Small.name = name
    for field, value in fields.items():
        setattr(Small, field, value)
    tfds.display_progress_bar(False)
    Small(data_dir=str(place), file_format="array_record").download_and_prepare()


def prepare_cifar(place: Path, name: str, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Arrays of images and labels, by split, with the features of TFDS's own CIFAR sets."""
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=CLASSES[name]),
        "id": tfds.features.Text(),
    }
    rows = {
        split: [(Image.fromarray(i), int(n), split) for i, n in zip(images, labels, strict=True)]
        for split, (images, labels) in splits.items()
    }
    prepare(place, name, features, rows)


def small_cifar(place: Path, name: str) -> dict[str, np.ndarray]:
    """Prepare a small CIFAR and return what is in it."""
    _, _, expected = cifar_files(name, "binary")
    both = ("train", "test")
    prepare_cifar(
        place, name, {s: (expected[f"{s} images"], expected[f"{s} labels"]) for s in both}
    )
    return expected


def load_prepared(place: Path, name: str = "cifar10", **kwargs):
    return load(f"tfds:{name}", data_dir=str(place), **(dict(val_fraction=0) | kwargs))


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    """A small CIFAR-10, prepared; tests that change it copy it."""
    place = tmp_path_factory.mktemp("ten")
    small_cifar(place, "cifar10")
    return place


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_prepared_set_has_the_arrays_it_was_made_of(tmp_path, name):
    expected = small_cifar(tmp_path, name)
    dataset = load_prepared(tmp_path, name)
    assert list(dataset.class_names) == CLASSES[name]
    for split in ("train", "test"):
        images, labels = dataset.splits[split].images, dataset.splits[split].labels
        np.testing.assert_array_equal(images, expected[f"{split} images"])
        np.testing.assert_array_equal(labels, expected[f"{split} labels"])


def test_pixels_are_decoded_once_and_mapped(ten, monkeypatch):
    first = load_prepared(ten).splits["train"]
    monkeypatch.setattr(prepared, "_write", None)  # A second decoding would fail.
    again = load_prepared(ten).splits["train"]
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(first.images, again.images)
    assert again.images[np.array([3, 1])].flags.c_contiguous


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no digest"])
def test_a_damaged_copy_is_made_anew(ten, tmp_path, damage):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    expected = np.array(load_prepared(tmp_path).splits["train"].images)
    cache = tmp_path / "cifar10" / "3.0.2" / "cxv_jax-train.npy"
    content = bytearray(cache.read_bytes())
    content[5000] ^= 1
    match damage:
        case "flipped":
            cache.write_bytes(content)
        case "truncated":
            cache.write_bytes(content[:-999])
        case "no digest":
            cache.write_bytes(content)
            cache.with_name(cache.name + ".sha256").unlink()
    np.testing.assert_array_equal(load_prepared(tmp_path).splits["train"].images, expected)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(ten, tmp_path, monkeypatch):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    expected = load_prepared(ten).splits["train"]

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(prepared, "_write", refuse)
    got = load_prepared(tmp_path).splits["train"]
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.labels, expected.labels)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "cifar10",
            r"download https\S+/cifar-10-binary.tar.gz.*config.data.source=cifar10,.*data_dir",
        ),
        ("mnist", r"builder\('mnist'\).download_and_prepare\(file_format.*config.data.data_dir"),
    ],
)
def test_what_is_not_prepared_is_told_how_to_get(tmp_path, name, remedy):
    with pytest.raises(
        InputError, match=f"not prepared; run tensorflow_datasets.*{remedy}"
    ) as error:
        load_prepared(tmp_path, name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unfinished_set_is_not_taken_for_one(ten, tmp_path):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").unlink()  # TFDS writes it last.
    with pytest.raises(InputError, match="not prepared"):
        load_prepared(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "prepare it again"),
        ("truncated", "prepare it again"),
        ("format", "not readable as ArrayRecord .*prepare it again"),
    ],
)
def test_damaged_sets(ten, tmp_path, damage, message):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    folder = tmp_path / "cifar10" / "3.0.2"
    for cache in folder.glob("cxv_jax*"):
        cache.unlink()
    records = folder / "cifar10-train.array_record-00000-of-00001"
    match damage:
        case "missing":
            records.unlink()
        case "truncated":
            records.write_bytes(records.read_bytes()[:-50_000])
        case "format":
            info = json.loads((folder / "dataset_info.json").read_text())
            (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(InputError, match=message) as error:
        load_prepared(tmp_path)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def pictures(
    place: Path, shape: tuple, label: Any = None, splits: Iterable[str] = ("train", "validation")
) -> None:
    """A set of six images a split, of one size or of many."""

    def picture(i: int) -> Image.Image:
        size = (20, 30 + i) if None in shape else (shape[1], shape[0])
        return Image.new("L", size, 40 * i).convert("L" if shape[-1] == 1 else "RGB")

    features = {
        "picture": tfds.features.Image(shape=shape),
        "kind": label or tfds.features.ClassLabel(names=["no", "yes"]),
    }
    rows = {split: [(picture(i), i % 2) for i in range(6)] for split in splits}
    tiny = [tfds.core.BuilderConfig(name="tiny")]
    version = tfds.core.Version("1.2.10")
    prepare(place, "pictures", features, rows, BUILDER_CONFIGS=tiny, VERSION=version)


@pytest.mark.parametrize("shape", [(None, None, 3), (16, 16, 1)], ids=["many sizes", "grey"])
def test_any_other_set(tmp_path, shape):
    pictures(tmp_path, shape)
    older = shutil.copytree(tmp_path / "pictures/tiny/1.2.10", tmp_path / "pictures/tiny/1.2.9")
    (older / "dataset_info.json").write_text("not the one to read")
    dataset = load_prepared(tmp_path, "pictures/tiny", image_size=16, val_per_class=1)
    assert dataset.class_names == ("no", "yes")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 6,
    }
    test = dataset.splits["test"]
    assert test.image_shape == (16, 16, 3)
    assert test.images[np.array([4, 1])][:, 3, 5].tolist() == [[160] * 3, [40] * 3]
    assert test.labels.tolist() == [0, 1] * 3


def test_sets_that_are_not_for_classification(tmp_path):
    pictures(tmp_path / "a", (None, None, 3))
    with pytest.raises(InputError, match="images of many sizes; set config.data.image_size"):
        load_prepared(tmp_path / "a", "pictures/tiny")
    pictures(tmp_path / "b", (16, 16, 3), label=tfds.features.Scalar(np.int64))
    with pytest.raises(InputError, match="expected images and class labels, found"):
        load_prepared(tmp_path / "b", "pictures/tiny")
    pictures(tmp_path / "c", (16, 16, 3), splits=("test",))
    with pytest.raises(InputError, match="no train split, only"):
        load_prepared(tmp_path / "c", "pictures/tiny")


def test_the_real_cifar10(real_cifar10, tmp_path):
    whole = load("cifar10", data_dir=str(real_cifar10), val_fraction=0).splits
    # 500 images of every file: encoding all of them takes a minute.
    first = {"train": np.arange(50_000).reshape(5, 10_000)[:, :500].reshape(-1)}
    first["test"] = np.arange(500)
    some = {s: (whole[s].images[index], whole[s].labels[index]) for s, index in first.items()}
    prepare_cifar(tmp_path, "cifar10", some)
    got = load_prepared(tmp_path).splits
    for split, (images, labels) in some.items():
        np.testing.assert_array_equal(got[split].images, images)
        np.testing.assert_array_equal(got[split].labels, labels)
