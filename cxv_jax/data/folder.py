"""A folder of pictures: ``train/CLASS/*`` with optional ``val`` and ``test``, or ``CLASS/*``."""

from pathlib import Path

from cxv_jax.data.images import ENDINGS, checked
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError


def read(path: Path, image_size: int, on_bad_image: str) -> tuple[list[str], dict[str, Split]]:
    """Read class names (sorted folder names) and the splits that are there.

    Args:
      path: the folder; with ``train`` in it, its splits are kept, else its folders are classes.
      image_size: pixels a side; needed, as pictures differ.
      on_bad_image: ``refuse`` or ``skip``.

    Raises:
      InputError: for a missing folder, no size, fewer than two classes, an empty class, a class
        that train does not have, and unreadable images.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected {path}/train/CLASS/ or {path}/CLASS/")
    if not image_size:
        raise InputError(f"{path}: set config.data.image_size, pixels a side, for a folder source")
    folders = {name: path / name for name in ("train", "val", "test") if (path / name).is_dir()}
    if "train" not in folders:
        folders = {"train": path}
    classes = _classes(folders["train"])
    if len(classes) < 2:
        raise InputError(
            f"{folders['train']}: {len(classes)} class folders {classes}, at least 2 are needed"
        )
    splits = {}
    for split, folder in folders.items():
        if unknown := sorted(set(_classes(folder)) - set(classes)):
            raise InputError(f"{folder / unknown[0]}: train has no such class, only {classes}")
        splits[split] = _read_split(folder, classes, image_size, on_bad_image)
    return classes, splits


def _read_split(folder: Path, classes: list[str], image_size: int, on_bad_image: str) -> Split:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _image_files(folder / name)
        if not found and (folder / name).is_dir():
            raise InputError(
                f"{folder / name}: no images in this class folder ({', '.join(ENDINGS)}); "
                "add some or remove the folder"
            )
        files += found
        labels += [label] * len(found)
    if not files:
        raise InputError(f"{folder}: no images; add {folder}/CLASS/*.jpg or remove the folder")
    names = [str(file.relative_to(folder)) for file in files]
    return checked(str(folder), names, files, labels, image_size, on_bad_image)


def _classes(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    found = folder.rglob("*") if folder.is_dir() else ()
    return sorted(f for f in found if f.suffix.lower() in ENDINGS and not f.name.startswith("."))
