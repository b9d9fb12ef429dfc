"""Fashion-MNIST from IDX files: small ones written here, and the real ones."""

import gzip
import struct

import numpy as np
import pytest

from cxv_jax.data.sources import load
from cxv_jax.errors import InputError

SIZES = {"train": 60, "t10k": 20}


def idx(array: np.ndarray, kind: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape)
    return gzip.compress(head + array.tobytes())


def pixels(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).integers(0, 256, (SIZES[name], 4, 5), np.uint8)


@pytest.fixture
def place(tmp_path):
    for name, number in SIZES.items():
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(pixels(name)))
        labels = (np.arange(number) % 10).astype(np.uint8)
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return tmp_path


def open_set(place):
    return load("fashion_mnist", data_dir=str(place), val_fraction=0.0)


def test_small_files(place):
    dataset = open_set(place)
    for split, name in (("train", "train"), ("test", "t10k")):
        grey = pixels(name)[..., None].repeat(3, -1)
        np.testing.assert_array_equal(dataset.splits[split].images, grey)
        assert dataset.splits[split].labels.tolist() == [i % 10 for i in range(SIZES[name])]
    inner = place.rename(place.parent / "fashion_mnist")
    assert len(open_set(inner.parent).split("test")) == 20


def test_the_real_files(shared):
    dataset = open_set(shared / "data")
    assert {n: np.bincount(s.labels).tolist() for n, s in dataset.splits.items()} == {
        "train": [6000] * 10,
        "test": [1000] * 10,
    }
    mean = dataset.splits["train"].images[..., 0].mean() / 255
    assert mean == pytest.approx(0.2860, abs=5e-5)  # The figure everyone normalises with.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; download http"),
        (b"", "not a whole IDX file"),
        (gzip.compress(b""), "not a whole IDX file"),
        (idx(pixels("train"))[:-9], "not a whole IDX file"),
        (idx(pixels("train"))[:-8] + bytes(8), "not a whole IDX file"),
        (idx(pixels("train"), kind=13), "another kind of header"),
        (idx(pixels("train")[0]), "another kind of header"),
        (idx(pixels("train"), shape=(60, 4, 6)), "not the bytes that follow"),
        (idx(pixels("train"), shape=(59, 4, 5)), "not the bytes that follow"),
        (idx(pixels("train"), shape=(2**32 - 1,) * 3), "unpacked it takes"),
        (idx(pixels("train")[:50]), "50 images and 60 labels"),
        (idx(pixels("train")[:0]), "0 images and 60 labels"),
    ],
    ids=lambda x: x if isinstance(x, str) else "file",
)
def test_bad_files(place, content, message):
    path = place / "train-images-idx3-ubyte.gz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_set(place)
    assert "\n" not in str(error.value)


def test_labels_that_are_no_class(place):
    labels = np.arange(60).astype(np.uint8)
    (place / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    with pytest.raises(InputError, match="labels 0..9"):
        open_set(place)
