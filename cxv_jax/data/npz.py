"""Arrays in a ``.npz`` file, memory-mapped where its form allows."""

import logging
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from cxv_jax.data.levels import Extent, find_white, to_uint8
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError, reason
from cxv_jax.machine import require_memory

PREFIXES = {"train": "", "val": "val_", "test": "test_"}
OTHER = {  # Keras' names of the same arrays.
    f"{letter}_{split}": f"{PREFIXES[split]}{kind}"
    for letter, kind in (("x", "images"), ("y", "labels"))
    for split in PREFIXES
}


def read(path: Path, white: float = 0.0) -> tuple[list[str], dict[str, Split]]:
    """Read ``images`` and ``labels``, and where they are there ``test_images``, ``val_labels``, ...

    Images are ``[example, height, width, 3]``, 1 channel, or none (grey): uint8 (left on disk and
    memory-mapped if the file is uncompressed), or other numbers, scaled as
    :func:`cxv_jax.data.levels.find_white` says. Labels are integers from 0, or from 1 if there are
    no ``class_names``, ``[example]`` or ``[example, 1]``; ``class_names`` are strings (default: the
    numbers). ``train_images`` and ``train_labels``, as MedMNIST has them, are read too, and
    ``x_train``, ``y_train``, ``x_test``, ..., as Keras has them.

    Args:
      path: the file.
      white: see :func:`cxv_jax.data.levels.find_white`.

    Raises:
      InputError: for a missing or damaged file, missing keys, shapes that do not fit, values that
        are not finite or out of range, fewer than two classes, and too little memory.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        arrays = _arrays(path)
    except InputError:
        raise
    except Exception as error:  # Damaged zip files and array headers raise nearly everything.
        raise InputError(
            f"{path}: not a whole .npz file of plain arrays ({reason(error)})"
        ) from error
    arrays = {OTHER.get(key.lower(), key): array for key, array in arrays.items()}
    if "images" not in arrays:
        arrays = {key.removeprefix("train_"): array for key, array in arrays.items()}
    parts = {}
    for split, prefix in PREFIXES.items():
        keys = (f"{prefix}images", f"{prefix}labels")
        missing = [key for key in keys if key not in arrays]
        if split != "train" and len(missing) == 2:
            continue
        if missing:
            raise InputError(f"{path}: no {missing[0]!r} in it, only {sorted(arrays)}")
        images, labels = (arrays[key] for key in keys)
        if labels.shape[1:] == (1,):
            labels = labels[:, 0]
        if images.ndim < 3 or labels.shape != images.shape[:1]:
            raise InputError(
                f"{path}: {keys[0]} {images.shape} and {keys[1]} {labels.shape} do not fit;"
                " expected [example, height, width, 3] and [example]"
            )
        parts[split] = _checked(path, keys[0], images), _integers(path, keys[1], labels)
    class_names, first = _class_names(path, arrays.get("class_names"), parts)
    pixels, white = _to_uint8(path, {name: part[0] for name, part in parts.items()}, white)
    splits = {
        name: Split(_rgb(pixels[name]), (labels - first).astype(np.int32), white=white)
        for name, (_, labels) in parts.items()
    }
    shapes = {name: split.image_shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{path}: the splits have images of different shapes: {shapes}")
    return class_names, splits


def _checked(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    """``[example, height, width, channel]`` of numbers."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{path}: {key} {images.shape}, expected [example, height, width, 3]")
    if images.dtype.kind not in "iuf":
        raise InputError(f"{path}: {key} are {images.dtype}, expected uint8 or floats")
    if images.dtype.kind == "f":
        bad = [i for i, image in enumerate(images) if not np.isfinite(image).all()]
        if bad:
            raise InputError(
                f"{path}: {key} {bad[0]} has NaN or infinite pixels; remove or repair it"
            )
    return images


def _to_uint8(
    path: Path, images: Mapping[str, np.ndarray], white: float
) -> tuple[dict[str, np.ndarray], float]:
    """By one scale for all splits, which is returned."""
    deep = {name: array for name, array in images.items() if array.dtype != np.uint8}
    grey = [array for array in images.values() if array.shape[-1] == 1]
    require_memory(path, sum(x.size for x in deep.values()) + sum(3 * x.size for x in grey))
    if not deep:
        return dict(images), white
    keys = ", ".join(f"{PREFIXES[name]}images" for name in deep)
    white = find_white(f"{path}: {keys}", [Extent.of(array) for array in deep.values()], white)
    return {**images, **{name: to_uint8(array, white) for name, array in deep.items()}}, white


def _rgb(images: np.ndarray) -> np.ndarray:
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def _integers(path: Path, key: str, labels: np.ndarray) -> Int[np.ndarray, " example"]:
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {key} are {labels.dtype}, expected integers")
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= 2**31))):
        raise InputError(f"{path}: {key} {wrong[0]} is {labels[wrong[0]]}, expected 0 or more")
    return labels.astype(np.int64)


def _class_names(
    path: Path, names: np.ndarray | None, parts: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[list[str], int]:
    """Given, or the numbers; and the number of the first. No label may be beyond them."""
    labels = {name: part for name, (_, part) in parts.items()}
    first = int(names is None and min(part.min() for part in labels.values()) == 1)
    if first:
        logging.getLogger(__name__).warning("%s: labels count from 1; so do the classes", path)
    last, number = int(labels["train"].max()), len(labels["train"])
    if (last + 1 - first if names is None else names.size) > number:
        said = f"labels go up to {last}" if names is None else f"{names.size} class_names"
        raise InputError(
            f"{path}: {said}, but there are {number} images; every class needs one, and classes "
            "are numbered from 0 without gaps"
        )
    found = [str(n) for n in (range(first, last + 1) if names is None else names.reshape(-1))]
    if len(found) < 2:
        raise InputError(f"{path}: {len(found)} classes {found}, at least 2 are needed")
    for split, part in labels.items():
        if len(wrong := np.flatnonzero(part >= len(found) + first)):
            hint = "; subtract 1 if they count from 1" if part.max() == len(found) else ""
            raise InputError(
                f"{path}: {PREFIXES[split]}labels {wrong[0]} is {part[wrong[0]]}, "
                f"but there are {len(found)} classes ({first}..{len(found) + first - 1}){hint}"
            )
    return found, first


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays; zip's checksum of every one is verified even if it is then mapped."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        mapped = {k for k, i in members.items() if not i.compress_type and _has_images(k)}
        require_memory(path, sum(i.file_size for k, i in members.items() if k not in mapped))
        for key, info in members.items():
            arrays[key] = _array(path, archive, info, key in mapped)
    return arrays


def _has_images(key: str) -> bool:
    return OTHER.get(key.lower(), key).endswith("images")


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, mapped: bool) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, dtype = header(file)
        skip = file.tell()
        if dtype.hasobject or not dtype.itemsize:
            raise ValueError("an array of Python objects, or of nothing")
        if math.prod(shape) * dtype.itemsize != info.file_size - skip:
            raise ValueError(f"{info.filename} does not have the size that its header says")
        if mapped:
            while file.read(2**20):  # To the end: that is where zipfile checks the checksum.
                pass
        content = b"" if mapped else file.read()
    if mapped:
        flat: np.ndarray = np.memmap(
            path, dtype, "r", _start(path, info) + skip, (math.prod(shape),)
        )
    else:
        flat = np.frombuffer(content, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member that is stored as it is begin."""
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), "<u2")  # Of the file name and the extra field.
    return info.header_offset + 30 + int(lengths.sum())
