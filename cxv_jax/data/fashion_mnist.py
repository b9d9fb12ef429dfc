"""Fashion-MNIST (Zalando, 10 kinds of clothes, 28x28 grey) from its four IDX files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from cxv_jax.machine import require_memory

FILES = {"train": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}
URL = "https://github.com/zalandoresearch/fashion-mnist"
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read(place: Path) -> tuple[list[str], dict[str, Split]]:
    """Read class names and the splits ``train`` and ``test``.

    Args:
      place: the folder of the files, or the one that holds it as ``fashion_mnist``.

    Raises:
      InputError: for missing or damaged files, and labels that are no class.
    """
    inner = place / "fashion_mnist"
    folder = inner if inner.is_dir() else place
    splits = {}
    for split, name in FILES.items():
        images = _array(folder / name.format("images-idx3"), 3)
        labels = _array(folder / name.format("labels-idx1"), 1)
        if len(images) != len(labels) or not len(labels) or labels.max() >= len(CLASSES):
            raise InputError(
                f"{folder}: {len(images)} images and {len(labels)} labels of {split}; expected as "
                f"many of both, and labels 0..{len(CLASSES) - 1}; download {URL} again"
            )
        splits[split] = Split(np.repeat(images[..., None], 3, axis=-1), labels.astype(np.int32))
    return list(CLASSES), splits


def _array(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes: 0, 0, 8, the number of dimensions, each as 4 bytes, the values."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; download {URL} and set config.data.data_dir")
    try:
        with gzip.open(path) as file:
            return _read(path, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole IDX file ({error}); download {URL} again") from error


def _read(path: Path, file: gzip.GzipFile, dimensions: int) -> np.ndarray:
    head = np.frombuffer(file.read(4 + 4 * dimensions), np.uint8)
    if head[:4].tolist() != [0, 0, 8, dimensions] or len(head) != 4 + 4 * dimensions:
        raise OSError("another kind of header")
    shape = tuple(head[4:].view(">u4").tolist())
    require_memory(path, math.prod(shape) * 4)  # With the three channels made of it.
    values = file.read(math.prod(shape) + 1)  # One more: gzip's checksum comes after the end.
    if len(values) != math.prod(shape):
        raise OSError(f"its header says {shape}, which are not the bytes that follow")
    return np.frombuffer(values, np.uint8).reshape(shape)
