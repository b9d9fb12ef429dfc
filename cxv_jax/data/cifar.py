"""CIFAR-10 and CIFAR-100 from the official binary or python files, packed or extracted."""

import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cxv_jax.data.cifar_files import CLASSES, LAYOUTS, Layout
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError, reason
from cxv_jax.files import sha256

MOST_BYTES = 2**28  # Of all members; the official ones have 186 MB.
HARMLESS = {  # What a pickled array is made with.
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read(name: str, place: Path) -> tuple[list[str], dict[str, Split]]:
    """Read class names and the splits ``train`` and ``test``.

    An archive must have the official digest, or the one in a file ``ARCHIVE.sha256`` (as
    ``sha256sum`` writes it) beside it.

    Args:
      name: ``cifar10`` or ``cifar100``.
      place: an extracted folder, an archive, or a folder that holds either; an extracted folder
        is preferred, and the binary form.

    Raises:
      InputError: for missing, truncated or changed files and labels out of range.
    """
    for layout in LAYOUTS[name]:
        for folder in (place / layout.folder, place):
            if any((folder / file).is_file() for file in layout.train + layout.test):
                return CLASSES[name], _read_files(name, layout, str(folder), folder.joinpath)
    archives = [place / layout.archive for layout in LAYOUTS[name]]
    archive = next((a for a in archives if a.is_file()), place if place.is_file() else None)
    if archive is None:
        raise InputError(
            f"{place}: no {name} here, expected {' or '.join(x.folder for x in LAYOUTS[name])} or "
            f"one of their archives; download {LAYOUTS[name][0].url} and set config.data.data_dir "
            "to its folder"
        )
    _verify(name, archive)
    files = _unpack(name, archive)
    layout = max(LAYOUTS[name], key=lambda layout: len(files.keys() & {*layout.train}))
    return CLASSES[name], _read_files(name, layout, str(archive), files.get)


def _verify(name: str, archive: Path) -> None:
    """Refuse an archive whose digest is neither official nor the one beside it."""
    beside = archive.with_name(archive.name + ".sha256")
    told = beside.read_text().lower().split()[:1] if beside.is_file() else []
    expected = told or [layout.sha256 for layout in LAYOUTS[name]]
    if (found := sha256(archive)) not in expected:
        raise InputError(
            f"{archive}: SHA-256 is {found}, expected {' or '.join(expected)}: truncated "
            "or changed; download it again, or if you trust it put its digest into "
            f"{beside.name} beside it (sha256sum FILE > FILE.sha256)"
        )


def _unpack(name: str, archive: Path) -> dict[str, io.BytesIO]:
    """The wanted members of an archive, in memory; nothing is written.

    Raises:
      InputError: it is damaged, one of them is a link, or its members are too large.
    """
    wanted = {file for layout in LAYOUTS[name] for file in layout.train + layout.test}
    found, total = {}, 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                total += member.size  # Before the next one is looked for: that unpacks this one.
                if total > MOST_BYTES:
                    raise tarfile.TarError(f"more than {MOST_BYTES / 1e6:,.0f} MB")
                if (file := Path(member.name).name) in wanted:
                    if not (data := tar.extractfile(member) if member.isreg() else None):
                        raise tarfile.TarError(f"{file} is no file, but a link or a folder")
                    found[file] = io.BytesIO(data.read())
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(
            f"{archive}: not a whole tar archive ({reason(error)}); download it again"
        ) from error
    return found


def _read_files(
    name: str, layout: Layout, place: str, find: Callable[[str], Path | io.BytesIO | None]
) -> dict[str, Split]:
    parse = _parse_binary if layout.binary else _parse_python
    parts: dict[str, list[Split]] = {"train": [], "test": []}
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


def _parse_binary(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Records of 1 label (CIFAR-100: coarse, fine) and 3,072 bytes, planes of red, green, blue."""
    number = 1 if name == "cifar10" else 2
    if len(data) == 0 or len(data) % (number + 3072):
        raise ValueError(f"truncated: {len(data)} bytes are no multiple of {number + 3072}")
    records = np.frombuffer(data, np.uint8).reshape(-1, number + 3072)
    return records[:, number:], records[:, number - 1]


def _parse_python(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict with ``data`` and ``labels``, in CIFAR-100 ``fine_labels``."""
    loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in loaded.items()}
    labels = batch["labels" if name == "cifar10" else "fine_labels"]
    return np.asarray(batch["data"]), np.asarray(labels)


def _check(name: str, data: np.ndarray, labels: np.ndarray) -> Split:
    if data.dtype != np.uint8 or data.shape != (len(labels), 3072):
        raise ValueError(f"{len(labels)} labels for data of {data.shape} {data.dtype}")
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= (limit := len(CLASSES[name]))))):
        label = labels[wrong[0]]
        raise ValueError(f"label {label} of example {wrong[0]} is not in 0..{limit - 1}")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(images, labels.astype(np.int32))


def _join(parts: list[Split]) -> Split:
    images = np.concatenate([part.images for part in parts])
    return Split(images, np.concatenate([part.labels for part in parts]))


class _Unpickler(pickle.Unpickler):
    """Knows how arrays are made and nothing else: no code in a file runs."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}")
        return super().find_class(module, name)
