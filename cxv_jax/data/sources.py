"""Labelled images by name, from files in any of the usual forms: one entry, :func:`load`.

================== ==========================================================================
``digits``         scikit-learn's handwritten digits, 8x8; needs no file.
``cifar10``        The official binary or python archive in ``data_dir``, packed or extracted;
``cifar100``       an archive must have the official digest or one told, see :mod:`.cifar`.
``fashion_mnist``  The four official ``*-ubyte.gz`` files in ``data_dir``.
``tiny_imagenet``  The official zip file in ``data_dir``, packed or extracted.
``tfds:NAME``      A set that TFDS has prepared as ArrayRecord (also ``NAME/CONFIG``).
``folder:PATH``    ``PATH/train/CLASS/*.jpg`` with optional ``val`` and ``test`` (or their other
                   usual names), or plain ``PATH/CLASS/*.jpg``; needs ``image_size``.
``csv:FILE``       Columns ``path``, ``label``, optional ``split``; paths are relative to the
                   file's folder; needs ``image_size``.
``hf:NAME``        A set of the Hugging Face hub (``hf:NAME:CONFIG``), or ``hf:FOLDER`` of Parquet
                   files; needs ``image_size`` and the extra ``hf``.
``npz:FILE``       ``images``, ``labels``, optional ``class_names``, ``test_images``, ...; also
                   MedMNIST's files, and ``x_train``, ``y_train``, ``x_test``, ...
================== ==========================================================================
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxv_jax.data import (
    cifar,
    csv_table,
    fashion_mnist,
    folder,
    hugging_face,
    npz,
    stored,
    tiny_imagenet,
)
from cxv_jax.data.folds import Fold
from cxv_jax.data.images import Resized
from cxv_jax.data.splits import Dataset, Split, complete, only
from cxv_jax.data.statistics import tell_odd
from cxv_jax.errors import InputError, nearest

OUTSIDE = ("folder", "csv", "hf", "npz")  # Kinds of sources that lie where the user says.
MAX_SIZE = 4096  # Pixels a side: 50 MB an image.
WORDS = {
    "on_bad_image": ("refuse", "skip"),
    "splits": ("random", "folds", "gem"),
    "small_classes": ("split", "train"),
}
KINDS = (
    *("digits", "cifar10", "cifar100", "fashion_mnist", "tiny_imagenet"),
    *("tfds:NAME", "folder:PATH", "csv:FILE", "hf:NAME", "npz:FILE"),
)
MEANINGS = {
    **{"cifar": "cifar10", "imagenet": "tiny_imagenet", "fashion": "fashion_mnist"},
    **{"mnist": "digits", "numpy": "npz:file", "npz": "npz:file", "medmnist": "npz:file"},
    **{"csv": "csv:file", "table": "csv:file"},
    **dict.fromkeys(("huggingface", "hugging_face", "datasets"), "hf:name"),
    **dict.fromkeys(("folder", "dir", "directory", "image_folder", "pictures"), "folder:path"),
    **dict.fromkeys(("tfds", "tensorflow_datasets"), "tfds:name"),
}
Parts = tuple[list[str], dict[str, Split]]  # Class names, and the source's own splits.


def load(
    source: str,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    val_per_class: int = 0,
    subset_per_class: int = 0,
    splits: str = "random",
    split_index: int = 0,
    folds: int = 5,
    image_size: int = 0,
    data_dir: str = "",
    on_bad_image: str = "refuse",
    small_classes: str = "split",
    classes: Sequence[str] = (),
    keep: stored.Stored | None = None,
    wanted: Iterable[str] = (),
) -> Dataset:
    """Open a source of labelled images: ``train``, ``val`` (unless 0 is asked for) and ``test``.

    Args:
      source: see the table at the top of this file.
      seed: this and the next three: see :func:`cxv_jax.data.splits.complete`.
      val_fraction: held out of train.
      val_per_class: in place of it.
      subset_per_class: kept of train.
      splits: ``random``, ``folds`` (see :func:`cxv_jax.data.folds.deal`), or ``gem``, as
        limited-data benchmarks have it (see :func:`cxv_jax.data.splits.in_order`).
      split_index: which of the ``folds`` or ``gem`` splits.
      folds: how many there are.
      image_size: pixels a side: the shorter one is resized, the centre cropped; 0: as they are.
      data_dir: where the files of the source are; default: :func:`default_dir`.
      on_bad_image: ``refuse`` or ``skip`` image files that cannot be read.
      small_classes: ``split`` or ``train``.
      classes: names of those to keep, in the order of their labels; none: all.
      keep: the splits of a run, which are restored in place of cutting new ones.
      wanted: of those, only the ones that are needed; none: all.

    Raises:
      InputError: one line about what is wrong with the arguments or the files.

    Example:
      >>> {name: len(split) for name, split in load("digits", val_fraction=0.2).splits.items()}
      {'train': 1151, 'val': 287, 'test': 359}
    """
    _check(image_size, on_bad_image=on_bad_image, splits=splits, small_classes=small_classes)
    found = source, *opened(source, data_dir, image_size, on_bad_image, classes)
    if keep is not None:
        return stored.restore(*found, keep, wanted)
    return complete(
        *found,
        seed=seed,
        val_fraction=val_fraction,
        val_per_class=val_per_class,
        subset_per_class=subset_per_class,
        order=split_index if splits == "gem" else None,
        fold=Fold(split_index, folds) if splits == "folds" else None,
        small_classes=small_classes,
    )


def outside(
    source: str,
    split: str,
    *,
    class_names: Sequence[str],
    image_size: int,
    on_bad_image: str = "refuse",
    white: float = 0.0,
) -> Dataset:
    """Open images that a trained run never saw, to evaluate it on all of them.

    Args:
      source: ``folder:PATH``, ``csv:FILE``, ``hf:NAME`` or ``npz:FILE``.
      split: taken if the source has it; a source that has one part only is taken whole.
      class_names: of the run; a folder may lack some of them.
      image_size: pixels a side.
      on_bad_image: ``refuse`` or ``skip`` image files that cannot be read.
      white: of the run's own data set.

    Returns:
      A data set with the one split ``split``.

    Raises:
      InputError: for bad files, and for several parts of which none is ``split``.
    """
    kind, _, argument = source.partition(":")
    path = Path(argument).expanduser()
    options: dict[str, Any] = {"class_names": class_names, "white": white}
    match kind:
        case "folder":
            names, splits = folder.read(path, image_size, on_bad_image, **options)
        case "csv":
            names, splits = csv_table.read(path, image_size, on_bad_image, **options)
        case "hf":
            names, splits = hugging_face.read(argument, image_size, on_bad_image, **options)
        case _:
            names, splits = npz.read(path, white)
    whole = next(iter(splits.values())) if len(splits) == 1 else None
    found = splits.get(split) or whole
    if found is None:
        raise InputError(f"{source} has no {split} split, only {', '.join(splits)}")
    return Dataset(source, tuple(names), _resized({split: found}, image_size))


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Within it nothing is said about what is odd in a source: another reading says it."""
    logger = logging.getLogger("cxv_jax.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_outside(source: str, own: str) -> bool:
    """Whether ``source`` is a folder or file, and not the one that a run was trained on."""
    (kind, path), (own_kind, own_path) = (s.partition(":")[::2] for s in (source, own))
    places = [Path(p).expanduser().resolve() for p in (path, own_path)]
    return kind in OUTSIDE and (kind != own_kind or places[0] != places[1])


def opened(
    source: str, data_dir: str, image_size: int, on_bad_image: str, classes: Sequence[str] = ()
) -> Parts:
    """Class names and the source's own splits, before any is cut; arguments as in :func:`load`."""
    place = Path(data_dir).expanduser() if data_dir else default_dir()
    class_names, parts = _read(source, place, image_size, on_bad_image)
    parts = _resized(parts, image_size)
    tell_odd(source, parts["train"].images)
    parts = {name: stored.named(name, split) for name, split in parts.items()}
    return (
        ([*classes], only(source, class_names, parts, classes)) if classes else (class_names, parts)
    )


def _check(image_size: int, **fields: str) -> None:
    """Refuse a field whose value is none of its words, and a size that no image has."""
    if not 0 <= image_size <= MAX_SIZE:
        raise InputError(f"data.image_size: expected 0 to {MAX_SIZE}, got {image_size}")
    for name, value in fields.items():
        if value not in WORDS[name]:
            raise InputError(f"data.{name}: expected {' or '.join(WORDS[name])}, got {value!r}")


def default_dir() -> Path:
    """Where TFDS keeps its data sets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _read(source: str, place: Path, image_size: int, on_bad_image: str) -> Parts:
    kind, _, argument = source.partition(":")
    match kind:
        case "digits" if not argument:
            return _digits()
        case "cifar10" | "cifar100" if not argument:
            return cifar.read(source, place)
        case "fashion_mnist" if not argument:
            return fashion_mnist.read(place)
        case "tiny_imagenet" if not argument:
            return tiny_imagenet.read(place, on_bad_image)
        case "folder" if argument:
            return folder.read(Path(argument).expanduser(), image_size, on_bad_image)
        case "csv" if argument:
            return csv_table.read(Path(argument).expanduser(), image_size, on_bad_image)
        case "hf" if argument:
            return hugging_face.read(argument, image_size, on_bad_image)
        case "npz" if argument:
            return npz.read(Path(argument).expanduser())
        case "tfds" if argument:
            from cxv_jax.data import prepared  # TFDS takes a while to import.

            return prepared.read(argument, place, image_size)
    near = nearest(kind, KINDS, MEANINGS)
    if (path := Path(source).expanduser()).exists():
        kind = "folder" if path.is_dir() else "csv" if path.suffix == ".csv" else "npz"
        near = f"; did you mean '{kind}:{source}'?"
    near = near if "did you mean" in near else ""
    raise InputError(f"data.source: {source!r} is none of {', '.join(KINDS)}{near}")


def _resized(splits: Mapping[str, Split], image_size: int) -> dict[str, Split]:
    """All splits at ``image_size``; 0: as they are."""
    wanted = (image_size, image_size)
    return {
        name: split
        if not image_size or split.image_shape[:2] == wanted
        else dataclasses.replace(split, images=Resized(split.images, image_size))
        for name, split in splits.items()
    }


def _digits() -> Parts:
    """1,797 handwritten digits, grey levels 0..16, inside scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [example, 8, 8]
    images = np.repeat(grey[..., None], 3, axis=-1)
    return [str(n) for n in range(10)], {"train": Split(images, digits.target.astype(np.int32))}
