"""Arrays in a ``.npz`` file, memory-mapped where its form allows."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError

PREFIXES = {"train": "", "val": "val_", "test": "test_"}


def read(path: Path) -> tuple[list[str], dict[str, Split]]:
    """Read ``images`` and ``labels``, and where they are there ``test_images``, ``val_labels``, ...

    Images are ``[example, height, width, 3]``, 1 channel, or none (grey): uint8 (left on disk and
    memory-mapped if the file is uncompressed), other numbers in 0..255, or floats in 0..1, which
    are multiplied by 255; both are rounded. Labels are integers from 0; ``class_names`` are strings
    (default: the numbers).

    Raises:
      InputError: for a missing or damaged file, missing keys, shapes that do not fit, values that
        are not finite or out of range, and fewer than two classes.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        arrays = _arrays(path)
    except Exception as error:  # Damaged zip files and array headers raise nearly everything.
        raise InputError(f"{path}: not a whole .npz file of plain arrays ({error})") from error
    splits = {}
    unit = _unit(arrays)
    for split, prefix in PREFIXES.items():
        keys = (f"{prefix}images", f"{prefix}labels")
        missing = [key for key in keys if key not in arrays]
        if split != "train" and len(missing) == 2:
            continue
        if missing:
            raise InputError(f"{path}: no {missing[0]!r} in it, only {sorted(arrays)}")
        images, labels = (arrays[key] for key in keys)
        if len(np.shape(images)) < 3 or np.shape(labels) != images.shape[:1]:
            raise InputError(
                f"{path}: {keys[0]} {np.shape(images)} and {keys[1]} {np.shape(labels)} do not fit;"
                " expected [example, height, width, 3] and [example]"
            )
        splits[split] = Split(_pixels(path, keys[0], images, unit), _labels(path, keys[1], labels))
    shapes = {name: split.image_shape for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"{path}: the splits have images of different shapes: {shapes}")
    return _class_names(path, arrays.get("class_names"), splits), splits


def _pixels(path: Path, key: str, images: np.ndarray, unit: bool) -> np.ndarray:
    """Checked uint8 RGB; ``unit`` tells that floats mean 0..1."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise InputError(f"{path}: {key} {images.shape}, expected [example, height, width, 3]")
    if images.dtype != np.uint8:
        images = _to_uint8(path, key, images, unit)
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def _to_uint8(path: Path, key: str, images: np.ndarray, unit: bool) -> np.ndarray:
    if images.dtype.kind not in "iuf":
        raise InputError(f"{path}: {key} are {images.dtype}, expected uint8 or floats")
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if len(bad):
        raise InputError(f"{path}: {key} {bad[0]} has NaN or infinite pixels; remove or repair it")
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        raise InputError(
            f"{path}: {key} have values {low:g} to {high:g}, expected 0..255, or 0..1 in floats; "
            "rescale them"
        )
    return np.round(images.astype(np.float64) * (255 if unit else 1)).astype(np.uint8)


def _unit(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether all images are floats of at most 1: one scale for all splits."""
    images = [arrays[p + "images"] for p in PREFIXES.values() if p + "images" in arrays]
    return all(i.dtype.kind == "f" and i.size > 0 and not i.max() > 1 for i in images)


def _labels(path: Path, key: str, labels: np.ndarray) -> Int[np.ndarray, " example"]:
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {key} are {labels.dtype}, expected integers")
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= 2**31))):
        raise InputError(f"{path}: {key} {wrong[0]} is {labels[wrong[0]]}, expected 0 or more")
    return labels.astype(np.int32)


def _class_names(path: Path, names: np.ndarray | None, splits: Mapping[str, Split]) -> list[str]:
    """Given, or the numbers; no label may be beyond them."""
    known = len(splits["train"].labels) and int(splits["train"].labels.max()) + 1
    found = [str(n) for n in (range(known) if names is None else names.reshape(-1))]
    if len(found) < 2:
        raise InputError(f"{path}: {len(found)} classes {found}, at least 2 are needed")
    for split, examples in splits.items():
        if len(wrong := np.flatnonzero(examples.labels >= len(found))):
            raise InputError(
                f"{path}: {PREFIXES[split]}labels {wrong[0]} is {examples.labels[wrong[0]]}, "
                f"but there are {len(found)} classes (0..{len(found) - 1})"
            )
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays; zip's checksum of every one is verified even if it is then mapped."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if info.compress_type == zipfile.ZIP_STORED and key.endswith("images"):
                arrays[key] = _map(path, archive, info)
            else:
                with archive.open(info) as file:
                    arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _map(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, dtype = header(file)
        skip = file.tell()
        while file.read(2**20):  # To the end: that is where zipfile checks the checksum.
            pass
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), "<u2")  # Of the file name and the extra field.
    offset = info.header_offset + 30 + int(lengths.sum()) + skip
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    flat = np.memmap(path, dtype, "r", offset, (int(np.prod(shape)),))
    return flat.reshape(shape, order="F" if fortran else "C")
