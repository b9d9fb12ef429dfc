"""Labelled images by name, from files in any of the usual forms: one entry, :func:`load`."""

import os
from pathlib import Path

import numpy as np

from cxv_jax.data import cifar, folder, npz, tiny_imagenet
from cxv_jax.data.images import Resized
from cxv_jax.data.splits import Dataset, Split, complete
from cxv_jax.errors import InputError

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
    image_size: int = 0,
    data_dir: str = "",
    on_bad_image: str = "refuse",
) -> Dataset:
    """Open a source of labelled images.

    ================== ==========================================================================
    ``digits``         scikit-learn's handwritten digits, 8x8; needs no file.
    ``cifar10``        The official binary or python archive in ``data_dir``, packed or extracted;
    ``cifar100``       an archive must have the official digest or one told, see :mod:`.cifar`.
    ``tiny_imagenet``  The official zip file in ``data_dir``, packed or extracted.
    ``tfds:NAME``      A set that TFDS has prepared as ArrayRecord (also ``NAME/CONFIG``).
    ``folder:PATH``    ``PATH/train/CLASS/*.jpg`` with optional ``val`` and ``test``, or plain
                       ``PATH/CLASS/*.jpg``; needs ``image_size``.
    ``npz:FILE``       ``images``, ``labels``, optional ``class_names``, ``test_images``, ...
    ================== ==========================================================================

    A source with ``val`` but no ``test`` (Tiny ImageNet, whose test labels are not public) is
    tested on its ``val``; one with neither on a fixed 20 % of every class. Validation is held out
    of train unless the source has both.

    Args:
      source: see the table.
      seed: fixes the validation split and the subset; never the test split.
      val_fraction: share of every class of train held out for validation (0: none).
      val_per_class: if positive, that many of every class instead.
      subset_per_class: if positive, keep that many of every class of train, before validation is
        held out of it.
      splits: ``random``: by ``seed``; ``gem``: subset and validation by the files' order, as
        limited-data benchmarks have it, see :func:`cxv_jax.data.splits.in_order`.
      split_index: which of the ``gem`` splits.
      image_size: pixels a side (0: as the source has them): the shorter side is resized to it, the
        centre cropped.
      data_dir: where the files of the source are; default ``$TFDS_DATA_DIR`` or
        ``~/tensorflow_datasets``.
      on_bad_image: ``refuse`` or ``skip`` image files that cannot be read.

    Returns:
      The data set, with splits ``train``, ``val`` (unless 0 is asked for) and ``test``.

    Raises:
      InputError: one line about what is wrong with the arguments or the files.

    Example:
      >>> digits = load("digits", val_fraction=0.2)
      >>> {name: len(split) for name, split in digits.splits.items()}
      {'train': 1151, 'val': 287, 'test': 359}
    """
    if on_bad_image not in ("refuse", "skip"):
        raise InputError(f"data.on_bad_image: expected refuse or skip, got {on_bad_image!r}")
    if splits not in ("random", "gem"):
        raise InputError(f"data.splits: expected random or gem, got {splits!r}")
    if image_size < 0:
        raise InputError(f"data.image_size: expected 0 or more, got {image_size}")
    place = Path(data_dir).expanduser() if data_dir else default_dir()
    class_names, parts = _read(source, place, image_size, on_bad_image)
    if image_size:
        parts = {name: _resized(split, image_size) for name, split in parts.items()}
    return complete(
        source,
        class_names,
        parts,
        seed=seed,
        val_fraction=val_fraction,
        val_per_class=val_per_class,
        subset_per_class=subset_per_class,
        order=split_index if splits == "gem" else None,
    )


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
        case "tiny_imagenet" if not argument:
            return tiny_imagenet.read(place, on_bad_image)
        case "folder" if argument:
            return folder.read(Path(argument).expanduser(), image_size, on_bad_image)
        case "npz" if argument:
            return npz.read(Path(argument).expanduser())
        case "tfds" if argument:
            from cxv_jax.data import prepared  # TFDS takes a while to import.

            return prepared.read(argument, place, image_size)
    raise InputError(
        f"data.source: {source!r} is none of digits, cifar10, cifar100, tiny_imagenet, tfds:NAME, "
        "folder:PATH, npz:FILE"
    )


def _resized(split: Split, image_size: int) -> Split:
    same = split.image_shape[:2] == (image_size, image_size)
    return split if same else Split(Resized(split.images, image_size), split.labels)


def _digits() -> Parts:
    """1,797 handwritten digits, grey levels 0..16, inside scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [example, 8, 8]
    images = np.repeat(grey[..., None], 3, axis=-1)
    return [str(n) for n in range(10)], {"train": Split(images, digits.target.astype(np.int32))}
