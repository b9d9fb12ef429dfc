"""A folder of pictures: ``train/CLASS/*`` with optional ``val`` and ``test``, or ``CLASS/*``."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cxv_jax.data.image_files import Listed, checked
from cxv_jax.data.images import ENDINGS, HEIC
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError

SPLITS = {  # Usual names of split folders, in any case; none of them is ever a class.
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HIDDEN = (".", "__MACOSX", "@eaDir")  # Copies and thumbnails that programs keep, not data.
NAMED = 8  # So many folders inside classes are named.


def read(
    path: Path,
    image_size: int,
    on_bad_image: str,
    *,
    class_names: Sequence[str] | None = None,
    white: float = 0.0,
) -> tuple[list[str], dict[str, Split]]:
    """Read class names (sorted folder names) and the splits that are there.

    What was found, and what was left out and why, is logged in one line.

    Args:
      path: the folder; with split folders in it (see ``SPLITS``) those are kept, else its folders
        are classes.
      image_size: pixels a side; needed, as pictures differ.
      on_bad_image: ``refuse`` or ``skip``.
      class_names: of a run that is evaluated, the only classes allowed (none: not known); then
        ``train`` may be missing.
      white: see :func:`cxv_jax.data.levels.find_white`.

    Raises:
      InputError: for a missing folder, no size, fewer than two classes, an empty class, a class
        that train does not have, and unreadable images.
    """
    if not image_size:
        raise InputError(f"{path}: set config.data.image_size, pixels a side, for a folder source")
    try:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; expected {path}/train/CLASS/ or CLASS/")
        walk = _Walk(path)
        splits = _splits(path, walk)
        if class_names is None and "train" not in splits:
            names = " and ".join(sorted(folder.name for folder in splits.values()))
            raise InputError(
                f"{path}: there is no train folder beside {names}, which splits are called; add "
                "it, or rename those that are classes"
            )
        classes = list(class_names or _classes(splits.get("train") or min(splits.values())))
        listed = {split: _list(folder, classes, walk) for split, folder in splits.items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    walk.tell(listed, len(classes))
    return classes, checked(listed, image_size, on_bad_image, white)


def split_folders(path: Path) -> list[str]:
    """Names of the split folders; none where the folders are classes."""
    found = _splits(path, _Walk(path)).values()
    return [folder.name for folder in found if folder != path]


def pictures(path: Path) -> list[Path]:
    """The files of all classes and splits that :func:`read` decodes."""
    walk = _Walk(path)
    classes = [c for split in _splits(path, walk).values() for c in _folders(split)]
    return [file for folder in classes for file in walk.pictures(folder)]


class _Walk:
    """What is met below a folder and not taken as it stands."""

    def __init__(self, root: Path):
        self.root = root
        self.left: Counter[str] = Counter()
        self.inner: list[str] = []  # Folders inside classes.

    def pictures(self, folder: Path) -> list[Path]:
        """Every picture below a class folder."""
        found = []
        for place, folders, files in os.walk(folder, onerror=_raise):
            kept = [name for name in sorted(folders) if self.is_plain(Path(place, name))]
            folders[:] = [name for name in kept if Path(name).suffix.lower() not in ENDINGS]
            self.inner += [Path(place, f).relative_to(folder.parent).as_posix() for f in folders]
            for path in [Path(place, f) for f in [*files, *(set(kept) - set(folders))]]:
                if path.name.startswith(HIDDEN):
                    self.left["hidden files"] += 1
                elif path.suffix.lower() in ENDINGS:
                    found.append(path)
                else:
                    self.left[_kind(path)] += 1
        return sorted(found)

    def is_plain(self, folder: Path) -> bool:
        """Whether a folder is neither hidden nor a link; those are counted."""
        hidden = folder.name.startswith(HIDDEN)
        if hidden or folder.is_symlink():
            self.left["hidden folders" if hidden else "linked folders"] += 1
        return not hidden and not folder.is_symlink()

    def told_left(self) -> str:
        """What was left out."""
        return ", ".join(f"{number} {what}" for what, number in sorted(self.left.items()))

    def tell(self, listed: dict[str, Listed], classes: int) -> None:
        """Log what was found and left, louder if anything was not taken as it stands."""
        sizes = ", ".join(f"{split} {len(x.files):,}" for split, x in listed.items())
        total = sum(len(x.files) for x in listed.values())
        line = f"{self.root}: {total:,} pictures in {classes} classes ({sizes})"
        if self.left:
            line += f"; left out: {self.told_left()}"
        if self.inner:
            more = f" and {len(self.inner) - NAMED} more" if len(self.inner) > NAMED else ""
            names = ", ".join(sorted(self.inner)[:NAMED])
            line += f"; read as part of their class: {names}{more}"
        level = logging.WARNING if self.left or self.inner else logging.INFO
        logging.getLogger(__name__).log(level, "%s", line)


def _splits(path: Path, walk: _Walk) -> dict[str, Path]:
    """The split folders; if there is none, ``path`` is ``train``."""
    found: dict[str, Path] = {}
    folders = _folders(path)
    for folder in folders:
        split = SPLITS.get(folder.name.casefold(), "")
        if split in found:
            both = f"{found[split].name} and {folder.name}"
            raise InputError(f"{path}: {both} are both the {split} split; keep one of them")
        if split:
            found[split] = folder
    if found and (beside := len(folders) - len(found)):
        walk.left["folders beside the split folders"] += beside
    return {split: found[split] for split in sorted(found)} or {"train": path}


def _classes(folder: Path) -> list[str]:
    classes = [f.name for f in _folders(folder)]
    if len(classes) < 2:
        hint = "; rename it if it is a class" if folder.name.casefold() in SPLITS else ""
        raise InputError(
            f"{folder}: {len(classes)} class folders {classes}, at least 2 are needed{hint}"
        )
    return classes


def _list(folder: Path, classes: list[str], walk: _Walk) -> Listed:
    files: list[Path] = []
    labels: list[int] = []
    for name in (f.name for f in _folders(folder)):
        if name not in classes:
            raise InputError(f"{folder / name}: train has no such class, only {classes}")
        found = walk.pictures(folder / name)
        if not found:
            left = f"; left out: {walk.told_left()}" if walk.left else ""
            raise InputError(
                f"{folder / name}: no images in this class folder ({', '.join(ENDINGS)}){left}; "
                "add some or remove the folder"
            )
        files += found
        labels += [classes.index(name)] * len(found)
    if not files:
        raise InputError(f"{folder}: no images; add {folder}/CLASS/*.jpg or remove the folder")
    beside = [f for f in folder.iterdir() if not f.is_dir() and not f.name.startswith(HIDDEN)]
    walk.left += Counter({"files beside the class folders": len(beside)})
    return Listed(str(folder), [str(f.relative_to(folder)) for f in files], files, labels)


def _folders(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith(HIDDEN))


def _kind(path: Path) -> str:
    """What a file that is not read is called in the summary."""
    ending = path.suffix.lower()
    hint = f" ({HEIC})" if ending in (".heic", ".heif") else ""
    return (f"{ending} files" if ending else "files without ending") + hint


def _raise(error: OSError) -> None:
    raise error
