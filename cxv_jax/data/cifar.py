"""CIFAR-10 and CIFAR-100 from the official binary or python files, packed or extracted."""

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from cxv_jax.data.cifar_files import CLASSES, LAYOUTS, Layout
from cxv_jax.errors import InputError

HARMLESS = {  # What a pickled array is made with.
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Examples(NamedTuple):
    """One split: pixels, labels and (CIFAR-100) labels of the 20 superclasses."""

    images: UInt8[np.ndarray, "example 32 32 3"]
    labels: Int[np.ndarray, " example"]
    coarse: Int[np.ndarray, " example"] | None


def read(name: str, place: Path, sha256: str = "") -> dict[str, Examples]:
    """Read ``train`` and ``test``.

    Args:
      name: ``cifar10`` or ``cifar100``.
      place: an extracted folder, an archive, or a folder that holds either; an extracted folder
        is preferred, and the binary form.
      sha256: the digest to expect of an archive, if it is not an official one. Without it a file
        ``ARCHIVE.sha256`` (as ``sha256sum`` writes it) beside the archive is taken.

    Raises:
      InputError: for missing, truncated or changed files and labels out of range.
    """
    for layout in LAYOUTS[name]:
        for folder in (place / layout.folder, place):
            if any((folder / file).is_file() for file in layout.train + layout.test):
                return _read_files(name, layout, str(folder), folder.joinpath)
    archives = [place / layout.archive for layout in LAYOUTS[name]]
    archive = next((a for a in archives if a.is_file()), place if place.is_file() else None)
    if archive is None:
        raise InputError(
            f"{place}: no {name} here, expected {' or '.join(x.folder for x in LAYOUTS[name])} or "
            f"one of their archives; run: python -m experiments.prepare_data {name}, or download "
            f"{LAYOUTS[name][0].url} and set config.data.data_dir to its folder"
        )
    verify(name, archive, sha256)
    files = _unpack(name, archive)
    layout = max(LAYOUTS[name], key=lambda layout: len(files.keys() & {*layout.train}))
    return _read_files(name, layout, str(archive), files.get)


def verify(name: str, archive: Path, sha256: str = "") -> None:
    """Refuse an archive whose digest is neither official nor the one that is expected."""
    official = [layout.sha256 for layout in LAYOUTS[name]]
    beside = archive.with_name(archive.name + ".sha256")
    if not sha256 and beside.is_file():
        sha256 = beside.read_text().split(maxsplit=1)[0]
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found not in ([sha256.lower()] if sha256 else official):
        raise InputError(
            f"{archive}: SHA-256 is {found}, expected {sha256 or ' or '.join(official)}: truncated "
            "or changed; download it again, or if you trust it put its digest into "
            f"{beside.name} beside it (sha256sum FILE > FILE.sha256)"
        )


def _unpack(name: str, archive: Path) -> dict[str, io.BytesIO]:
    """The wanted members of an archive, in memory; nothing is written."""
    wanted = {file for layout in LAYOUTS[name] for file in layout.train + layout.test}
    try:
        with tarfile.open(archive) as tar:
            members = [(Path(m.name).name, tar.extractfile(m)) for m in tar]
            return {n: io.BytesIO(data.read()) for n, data in members if data and n in wanted}
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{archive}: not a whole tar archive ({error}); download it again"
        ) from error


def _read_files(
    name: str, layout: Layout, place: str, find: Callable[[str], Path | io.BytesIO | None]
) -> dict[str, Examples]:
    parse = _parse_binary if layout.binary else _parse_python
    parts: dict[str, list[Examples]] = {"train": [], "test": []}
    for split, files in (("train", layout.train), ("test", layout.test)):
        for file in files:
            found = find(file)
            if found is None or (isinstance(found, Path) and not found.is_file()):
                raise InputError(f"{place}: {file} is missing; download {layout.url} again")
            data = found.read_bytes() if isinstance(found, Path) else found.getvalue()
            try:
                parts[split].append(_check(name, *parse(data, name)))
            except Exception as error:  # A damaged pickle raises nearly everything.
                where = f"{place}/{file}"
                raise InputError(f"{where}: {error}; download {layout.url} again") from error
    return {split: _join(examples) for split, examples in parts.items()}


def _parse_binary(data: bytes, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Records of 1 label (CIFAR-100: coarse, fine) and 3,072 bytes, planes of red, green, blue."""
    number = 1 if name == "cifar10" else 2
    if len(data) == 0 or len(data) % (number + 3072):
        raise ValueError(f"truncated: {len(data)} bytes are no multiple of {number + 3072}")
    records = np.frombuffer(data, np.uint8).reshape(-1, number + 3072)
    return records[:, number:], [records[:, i] for i in reversed(range(number))]


def _parse_python(data: bytes, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A pickled dict with ``data`` and ``labels``, or ``fine_labels`` and ``coarse_labels``."""
    loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in loaded.items()}
    keys = ["labels"] if name == "cifar10" else ["fine_labels", "coarse_labels"]
    return np.asarray(batch["data"]), [np.asarray(batch[key]) for key in keys]


def _check(name: str, data: np.ndarray, labels: list[np.ndarray]) -> Examples:
    if data.dtype != np.uint8 or data.shape != (len(labels[0]), 3072):
        raise ValueError(f"{len(labels[0])} labels for data of {data.shape} {data.dtype}")
    for values, limit in zip(labels, (len(CLASSES[name]), 20), strict=False):
        if len(wrong := np.flatnonzero((values < 0) | (values >= limit))):
            label = values[wrong[0]]
            raise ValueError(f"label {label} of example {wrong[0]} is not in 0..{limit - 1}")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    fine, *coarse = (values.astype(np.int32) for values in labels)
    return Examples(images, fine, coarse[0] if coarse else None)


def _join(parts: list[Examples]) -> Examples:
    images, labels, coarse = zip(*parts, strict=True)
    joined = None if coarse[0] is None else np.concatenate(coarse)
    return Examples(np.concatenate(images), np.concatenate(labels), joined)


class _Unpickler(pickle.Unpickler):
    """Knows how arrays are made and nothing else: no code in a file runs."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        return super().find_class(module, name)
