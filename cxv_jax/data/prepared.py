"""Sets that TFDS has prepared as ArrayRecord, read without TensorFlow."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cxv_jax.data.cifar_files import LAYOUTS
from cxv_jax.data.images import fit
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from cxv_jax.files import replace, sha256, write_text

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
CHUNK = 1024  # Examples decoded between two writes of the cache.


def read(name: str, place: Path, image_size: int) -> tuple[list[str], dict[str, Split]]:
    """Read class names and splits of a set in ``place/NAME[/CONFIG]/VERSION``, the last version.

    Images of one size are decoded once into ``cxv_jax-SPLIT.npy`` beside the set, which is then
    memory-mapped (PNG decoding is ten times slower); those of many sizes are decoded, resized to
    ``image_size`` and cropped when asked for.

    Raises:
      InputError: for a set that is not prepared, not as ArrayRecord, damaged, or not of images and
        class labels.
    """
    folder = _find(name, place)
    if folder is None:
        raise InputError(f"{place / name}: not prepared; {_remedy(name)}")
    try:
        builder = tfds.builder_from_directory(folder)
        sources = {s: builder.as_data_source(s) for s in builder.info.splits if s in SPLITS}
    except Exception as error:  # TFDS and ArrayRecord raise nearly everything.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{folder}: not readable as ArrayRecord ({reason}); remove this folder and prepare it "
            f"again: {_remedy(name)}"
        ) from error
    image, label = builder.info.supervised_keys or ("image", "label")
    features = builder.info.features
    known = isinstance(features, tfds.features.FeaturesDict) and {image, label} <= set(features)
    if not known or not isinstance(features[label], tfds.features.ClassLabel):
        raise InputError(f"tfds:{name}: expected images and class labels, found {list(features)}")
    if "train" not in sources:
        raise InputError(f"tfds:{name}: no train split, only {list(builder.info.splits)}")
    reader = _Reader(folder, image, label, features[image].shape, image_size)
    splits = {SPLITS[split]: reader.split(split, source) for split, source in sources.items()}
    classes = list(features[label].names)
    for split, examples in splits.items():
        if len(wrong := np.flatnonzero((examples.labels < 0) | (examples.labels >= len(classes)))):
            raise InputError(f"{folder}: example {wrong[0]} of {split} has no valid label")
    return classes, splits


def _find(name: str, place: Path) -> Path | None:
    """The folder of the last prepared version of ``NAME[/CONFIG]``, if there is one."""
    found = {tuple(f.parent.name.split(".")): f for f in place.glob(f"{name}/*/dataset_info.json")}
    numbered = {tuple(map(int, v)): f for v, f in found.items() if all(x.isdigit() for x in v)}
    return numbered[max(numbered)].parent if numbered else None


def _remedy(name: str) -> str:
    """What to do about a set that is not there."""
    make = f"tensorflow_datasets.builder({name!r}).download_and_prepare(file_format='array_record')"
    instead = "set config.data.data_dir to where the set is"
    if name in LAYOUTS:
        url = LAYOUTS[name][0].url
        instead = f"download {url} and set config.data.source={name}, config.data.data_dir=FOLDER"
    return f"run {make} in Python, or {instead}"


class DecodedWhenAsked:
    """Images of many sizes, read from a TFDS data source."""

    def __init__(self, source: Any, key: str, image_size: int):
        self._source, self._key = source, key
        self.image_shape = (image_size, image_size, 3)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._source)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Decode, resize and crop the images at ``index``."""
        records = self._source.__getitems__(np.arange(len(self))[index].tolist())
        return np.stack([_square(r[self._key], self.image_shape[0]) for r in records])


class _Reader:
    """Reads the splits of one prepared set."""

    def __init__(self, folder: Path, image: str, label: str, shape: Any, image_size: int):
        self._folder, self._image, self._label = folder, image, label
        self._shape, self._size = shape, image_size

    def split(self, name: str, source: Any) -> Split:
        if None not in self._shape:
            records = self._cached(self._folder / f"cxv_jax-{name}.npy", source)
            return Split(records["image"], np.array(records["label"]))
        if not self._size:
            raise InputError(f"{self._folder}: images of many sizes; set config.data.image_size")
        labels = np.array([record[self._label] for record in source], np.int32)
        return Split(DecodedWhenAsked(source, self._image, self._size), labels)

    def _cached(self, path: Path, source: Any) -> np.ndarray:
        height, width, _ = self._shape
        kind = np.dtype([("image", "u1", (height, width, 3)), ("label", "<i4")])
        try:
            if not _whole(path):
                _write(path, kind, len(source), self._chunks(source, kind))
            return np.load(path, mmap_mode="r")
        except OSError as error:
            logging.getLogger(__name__).warning("%s: no cache (%s), decoding anew", path, error)
            return np.concatenate(list(self._chunks(source, kind)))

    def _chunks(self, source: Any, kind: np.dtype) -> Iterator[np.ndarray]:
        """All examples as records, in order."""
        for start in range(0, len(source), CHUNK):
            wanted = list(range(start, min(start + CHUNK, len(source))))
            chunk = np.empty(len(wanted), kind)
            try:
                examples = source.__getitems__(wanted)
            except Exception as error:  # ArrayRecord raises nearly everything for damaged files.
                raise InputError(
                    f"{self._folder}: damaged ({error}); remove this folder and prepare it again"
                ) from error
            for record, example in zip(chunk, examples, strict=True):
                record["image"], record["label"] = example[self._image], example[self._label]
            yield chunk


def _square(pixels: np.ndarray, image_size: int) -> np.ndarray:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    return np.asarray(fit(image.convert("RGB"), image_size))


def _write(path: Path, kind: np.dtype, number: int, chunks: Iterator[np.ndarray]) -> None:
    """Write a ``.npy`` file, then its digest: a file without a digest is not whole."""
    descr = np.lib.format.dtype_to_descr(kind)
    header = {"descr": descr, "fortran_order": False, "shape": (number,)}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(chunk.tobytes())

    replace(path, write)
    write_text(_digest_file(path), f"{sha256(path)}  {path.name}\n")


def _whole(path: Path) -> bool:
    """Whether the file is the one that was written."""
    beside = _digest_file(path)
    return path.is_file() and beside.is_file() and beside.read_text().split()[:1] == [sha256(path)]


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
