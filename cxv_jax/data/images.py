"""Image files of any size and mode to square uint8 RGB, the same way everywhere."""

import functools
import io
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from cxv_jax.data.splits import Rows, Split
from cxv_jax.errors import InputError

KEEP_BYTES = 2**30  # Decoded sets up to this size stay in memory.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
NAMED = 10  # So many unreadable files are named in an error.


def decode(file: Path | bytes, image_size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Read one image as training does.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey keeps its upper
    byte; then see :func:`fit`. Large JPEGs are decoded at the smallest scale (1/2, 1/4, 1/8) that
    keeps twice ``image_size``. The first frame of an animation counts.

    Args:
      file: a path, or the bytes of a file.
      image_size: pixels a side of the result.

    Raises:
      Exception: whatever Pillow raises for a file that it cannot read.
    """
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        image.draft("RGB", (2 * image_size, 2 * image_size))
        image.load()
        return np.asarray(fit(_rgb(ImageOps.exif_transpose(image)), image_size))


def fit(image: Image.Image, image_size: int) -> Image.Image:
    """Resize the shorter side to ``image_size`` (bilinear, antialiased), crop the centre."""
    scale = image_size / min(image.size)
    width, height = (max(image_size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype("u1"))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


class ImageFiles:
    """Images decoded when asked for; ``files`` are paths or the bytes of files."""

    def __init__(self, files: Sequence[Path | bytes], image_size: int):
        self.files = files
        self.image_shape = (image_size, image_size, 3)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Decode the files at ``index``, several at a time."""
        chosen = [self.files[i] for i in np.arange(len(self.files))[index]]
        size = self.image_shape[0]
        return np.stack(list(_threads().map(lambda file: decode(file, size), chosen)))


class Resized:
    """Images of another source at another size, resized when asked for; see :func:`fit`."""

    def __init__(self, images: Any, image_size: int):
        self.images = images
        self.image_shape = (image_size, image_size, 3)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read and resize the images at ``index``."""
        size = self.image_shape[0]
        return np.stack([np.asarray(fit(Image.fromarray(i), size)) for i in self.images[index]])


def checked(
    source: str,
    names: Sequence[str],
    files: Sequence[Path | bytes],
    labels: Sequence[int],
    image_size: int,
    on_bad_image: str,
) -> Split:
    """Decode every file once; refuse or leave out those that cannot be read.

    Pixels stay in memory if they take at most ``KEEP_BYTES``, else they are decoded again.

    Raises:
      InputError: for unreadable files, unless they are to be skipped.
    """
    keep = len(files) * image_size**2 * 3 <= KEEP_BYTES

    def attempt(file: Path | bytes) -> Any:
        try:
            pixels = decode(file, image_size)
        except Exception as error:  # Pillow's readers raise nearly everything.
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return pixels if keep else None

    found = list(_threads().map(attempt, files))
    bad = [f"{name} ({why})" for name, why in zip(names, found, strict=True) if type(why) is str]
    _report(source, bad, len(files), on_bad_image)
    good = np.array([i for i, item in enumerate(found) if type(item) is not str], int)
    int_labels = np.asarray(labels, np.int32)
    if keep and len(good):
        return Split(np.stack([found[i] for i in good]), int_labels[good])
    return Split(Rows(ImageFiles(files, image_size), good), int_labels[good])


def _report(source: str, bad: list[str], total: int, on_bad_image: str) -> None:
    if bad and on_bad_image == "refuse":
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise InputError(
            f"{source}: {len(bad)} of {total} images cannot be read: {', '.join(bad[:NAMED])}"
            f"{more}; replace or remove them, or set config.data.on_bad_image=skip"
        )
    for name in bad:
        logging.getLogger(__name__).warning("%s: skipped unreadable %s", source, name)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow decodes and resizes without holding Python's lock."""
    return ThreadPoolExecutor(os.cpu_count())
