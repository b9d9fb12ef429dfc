"""Splits of image files: every file is read once, and those that cannot be are named."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxv_jax.data.images import decode, is_deep, opened, upright, why
from cxv_jax.data.levels import Extent, find_white
from cxv_jax.data.splits import Rows, Split
from cxv_jax.errors import InputError

KEEP_BYTES = 2**30  # Decoded sets up to this size stay in memory.
NAMED = 10  # So many unreadable files are named in an error.


class ImageFiles:
    """Images decoded when asked for; ``files`` are paths or the bytes of files."""

    def __init__(self, files: Sequence[Path | bytes], image_size: int, white: float = 0.0):
        self.files, self.white = files, white
        self.image_shape = (image_size, image_size, 3)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Decode the files at ``index``, several at a time."""
        chosen = [self.files[i] for i in np.arange(len(self.files))[index]]
        read = functools.partial(decode, image_size=self.image_shape[0], white=self.white)
        return np.stack(list(_threads().map(read, chosen)))


class Listed(NamedTuple):
    """The files of a split: where they are, what they are called there, what they show."""

    where: str
    names: Sequence[str]
    files: Sequence[Path | bytes]
    labels: Sequence[int]


def checked(
    splits: Mapping[str, Listed], image_size: int, on_bad_image: str, white: float = 0.0
) -> dict[str, Split]:
    """Decode every file once; refuse or leave out those that cannot be read.

    Pixels stay in memory if they take at most ``KEEP_BYTES``, else they are decoded again.

    Args:
      splits: of one set: what is white in images of more than 8 bits is found over all of them.
      image_size: pixels a side of the result.
      on_bad_image: ``refuse`` or ``skip``.
      white: see :func:`cxv_jax.data.levels.find_white`.

    Raises:
      InputError: for unreadable files, unless they are to be skipped, and unusual pixel values.
    """
    keep = sum(len(listed.files) for listed in splits.values()) * image_size**2 * 3 <= KEEP_BYTES
    attempt = functools.partial(_attempt, image_size=image_size, keep=keep)
    # By number: a file's bytes may come from an archive, and are not to be there all at once.
    found = {
        name: list(_threads().map(lambda i, x=x: attempt(x.files[i]), range(len(x.files))))
        for name, x in splits.items()
    }
    for name, listed in splits.items():
        _report(listed, found[name], on_bad_image)
    deep = [item for items in found.values() for item in items if isinstance(item, Extent)]
    if deep:
        source = f"{next(iter(splits.values())).where}: {len(deep)} images"
        white = find_white(source, deep, white)
    return {name: _split(x, found[name], image_size, white, keep) for name, x in splits.items()}


def _attempt(file: Path | bytes, image_size: int, keep: bool) -> np.ndarray | Extent | str | None:
    """Pixels (None if not to be kept), the extent of more than 8 bits, or what is wrong."""
    try:
        with opened(file, image_size) as image:
            if is_deep(image):
                return Extent.of(np.asarray(image))
            pixels = upright(image, image_size)
    except Exception as error:  # Pillow's readers raise nearly everything.
        return why(file, error)
    return pixels if keep else None


def _split(
    listed: Listed, found: Sequence[Any], image_size: int, white: float, keep: bool
) -> Split:
    good = np.array([i for i, item in enumerate(found) if type(item) is not str], int)
    labels = np.asarray(listed.labels, np.int32)[good]
    names = np.array(listed.names, dtype=object)[good]
    if not keep or not len(good):
        rows = Rows(ImageFiles(listed.files, image_size, white), good)
        return Split(rows, labels, white, names)

    def pixels(i: int) -> np.ndarray:
        deep = isinstance(found[i], Extent)
        return decode(listed.files[i], image_size, white) if deep else found[i]

    return Split(np.stack(list(_threads().map(pixels, good.tolist()))), labels, white, names)


def _report(listed: Listed, found: Sequence[Any], on_bad_image: str) -> None:
    items = zip(listed.names, found, strict=True)
    bad = [f"{name} ({reason})" for name, reason in items if type(reason) is str]
    if bad and on_bad_image == "refuse":
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise InputError(
            f"{listed.where}: {len(bad)} of {len(found)} images cannot be read: "
            f"{', '.join(bad[:NAMED])}{more}; replace or remove them, or set "
            "config.data.on_bad_image=skip"
        )
    for name in bad:
        logging.getLogger(__name__).warning("%s: skipped unreadable %s", listed.where, name)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow decodes and resizes without holding Python's lock."""
    return ThreadPoolExecutor(os.cpu_count())
