"""Tiny ImageNet (200 classes, 64x64) from the official zip file or folder."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cxv_jax.data.image_files import Listed, checked
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError, reason
from cxv_jax.machine import require_memory

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIZE = 64


class Files(NamedTuple):
    """Names relative to the root of the set, and how to get at them."""

    place: Path
    names: tuple[str, ...]
    archive: zipfile.ZipFile | None

    def get(self, name: str) -> Path | bytes:
        """A path, or the bytes of a zipped file."""
        return self.archive.read(f"{FOLDER}/{name}") if self.archive else self.place / name

    def text(self, name: str) -> list[list[str]]:
        """The lines of a text file, cut at tabs."""
        if name not in self.names:
            raise InputError(f"{self.place}: {name} is missing; download {URL} again")
        found = self.get(name)
        content = found if isinstance(found, bytes) else found.read_bytes()
        return [
            line.split("\t")
            for line in content.decode(errors="replace").splitlines()
            if line.strip()
        ]


def read(place: Path, on_bad_image: str) -> tuple[list[str], dict[str, Split]]:
    """Read class names and the splits ``train`` and ``val``.

    Classes are sorted by WordNet id and called by the first word of ``words.txt``. The official
    test images have no labels and are left alone.

    Args:
      place: the extracted folder, the zip file, or the folder that holds either.
      on_bad_image: ``refuse`` or ``skip``.

    Raises:
      InputError: for missing files, labels that are no class, and unreadable images.
    """
    files = _open(place)
    words = {line[0]: line[-1].split(",")[0] for line in files.text("words.txt")}
    wnids = sorted(line[0] for line in files.text("wnids.txt"))
    parts = {"train": _train(files), "val": _val(files)}
    listed = {}
    for split, (names, labels) in parts.items():
        if unknown := sorted(set(labels) - set(wnids)):
            raise InputError(f"{files.place}: {split} has classes {unknown} that wnids.txt has not")
        images = [files.get(name) for name in names]
        numbers = [wnids.index(label) for label in labels]
        listed[split] = Listed(str(files.place), names, images, numbers)
    return [words.get(wnid, wnid) for wnid in wnids], checked(listed, SIZE, on_bad_image)


def _open(place: Path) -> Files:
    for folder in (place / FOLDER, place):
        if (folder / "wnids.txt").is_file():
            found = (f for f in folder.rglob("*") if f.is_file())
            return Files(folder, _sorted(f.relative_to(folder).as_posix() for f in found), None)
    file = place if place.is_file() else place / f"{FOLDER}.zip"
    if not file.is_file():
        raise InputError(
            f"{place}: no {FOLDER} here, neither as a folder nor as a zip file; download {URL} "
            "and set config.data.data_dir to its folder"
        )
    try:
        archive = zipfile.ZipFile(file)
        require_memory(file, sum(info.file_size for info in archive.infolist()))
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is damaged")
    except InputError:
        raise
    except Exception as error:  # Damaged zip files raise nearly everything.
        raise InputError(
            f"{file}: not a whole zip file ({reason(error)}); download {URL} again"
        ) from error
    names = (name.removeprefix(f"{FOLDER}/") for name in archive.namelist())
    return Files(file, _sorted(names), archive)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not name.endswith("/")))


def _train(files: Files) -> tuple[list[str], list[str]]:
    """``train/WNID/images/WNID_7.JPEG``."""
    parts = [name.split("/") for name in files.names]
    chosen = [p for p in parts if len(p) == 4 and p[0] == "train" and p[2] == "images"]
    return ["/".join(p) for p in chosen], [p[1] for p in chosen]


def _val(files: Files) -> tuple[list[str], list[str]]:
    """``val/images/val_7.JPEG``, whose classes are in ``val/val_annotations.txt``."""
    annotations = "val/val_annotations.txt"
    lines = files.text(annotations)
    if bad := [line for line in lines if len(line) < 2]:
        raise InputError(
            f"{files.place}: {annotations} has a line without a tab, {bad[0][0][:80]!a}; expected "
            f"FILE, tab, CLASS; download {URL} again"
        )
    names = [f"val/images/{line[0]}" for line in lines]
    if missing := sorted(set(names) - set(files.names)):
        raise InputError(f"{files.place}: {missing[0]} is missing; download {URL} again")
    return names, [line[1] for line in lines]
