"""Image files of any size and mode to uint8 RGB of one size, the same way everywhere."""

import io
import math
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cxv_jax.data.levels import Extent, find_white, to_uint8
from cxv_jax.errors import InputError, reason

MAX_PIXELS = 61_000_000  # Of one image, once a JPEG is reduced; a few bytes can claim any number.
LARGE = 2**24  # Pixels; images of more are read one at a time, whatever the number of threads.
MAX_SCANS = 100  # Of a progressive JPEG: each takes the time of a whole image.
STRIP = 256  # Rows.
# What phones write.
HEIC = "Pillow does not read HEIC, convert it to JPEG or PNG, or add pillow-heif"

with suppress(ImportError):  # The extra `heif`.
    import pillow_heif

    pillow_heif.register_heif_opener()

# Only these are ever opened: among Pillow's others, EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
ENDINGS = tuple(e for e, f in Image.registered_extensions().items() if f in (*FORMATS, "MPO"))
READERS = tuple(f for f in FORMATS if f in Image.OPEN)  # Not every Pillow has AVIF and HEIF.
Size = int | tuple[int, int]  # Pixels a side of a square, or height and width.

TURNS = dict(  # By EXIF orientation, what stands the image upright.
    zip(
        range(2, 9),
        (
            *(Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180),
            *(Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE),
            *(Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90),
        ),
        strict=True,
    )
)


def decode(
    file: Path | bytes, image_size: Size, white: float = 0.0
) -> UInt8[np.ndarray, "height width 3"]:
    """Read one image as training does.

    The EXIF orientation is applied, transparency is laid on white, more than 8 bits are scaled (see
    :mod:`.levels`); then see :func:`fit`. Large JPEGs are decoded at the smallest scale (1/2, 1/4,
    1/8) that keeps twice ``image_size``. The first frame of an animation counts. Of colours of 16
    bits Pillow hands on the upper 8.

    Args:
      file: a path, or the bytes of a file.
      image_size: pixels a side of the result, or its height and width.
      white: the value that is read as 255 in images of more than 8 bits; 0: found in this image.

    Raises:
      Exception: whatever Pillow raises for a file that it cannot read.
    """
    with opened(file, image_size) as image:
        return upright(image, image_size, white)


def fit(image: Image.Image, image_size: Size) -> Image.Image:
    """Resize until ``image_size`` is covered (bilinear, antialiased), crop the centre.

    Of a square so the shorter side gets its size. Only what the crop keeps is computed.
    """
    wanted = _sides(image_size)
    scale = max(side / had for side, had in zip(wanted, image.size, strict=True))
    sizes = [max(side, round(had * scale)) for side, had in zip(wanted, image.size, strict=True)]
    starts = [(size - side) // 2 for size, side in zip(sizes, wanted, strict=True)]
    x, y = (had / size for had, size in zip(image.size, sizes, strict=True))
    left, top = starts[0] * x, starts[1] * y
    right, bottom = left + wanted[0] * x, top + wanted[1] * y
    box = (left, top, min(right, image.width), min(bottom, image.height))  # Rounding may go beyond.
    return image.resize(wanted, Image.Resampling.BILINEAR, box)


def _sides(image_size: Size) -> tuple[int, int]:
    """Width and height, as Pillow has them."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size[::-1]


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


def why(file: Path | bytes, error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, Image.UnidentifiedImageError):
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
            if opened.read(12)[4:] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
                return f"HEIC: {HEIC}"
        return f"not an image of a kind that is read ({', '.join(READERS)})"
    return reason(error)


_ONE = threading.Lock()


@contextmanager
def opened(file: Path | bytes, image_size: Size) -> Iterator[Image.Image]:
    """An image with its pixels loaded, at a reduced scale where the format has one."""
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise InputError("no regular file, but a folder, a pipe or a device")
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, "r", READERS) as image:
        whole, progressive = image.size, "progressive" in image.info
        width, height = _sides(image_size)
        image.draft("RGB", (2 * width, 2 * height))
        # What is left of a reduced JPEG is read whole, if progressive into memory.
        pixels = max(math.prod(image.size), math.prod(whole) // (2 if progressive else 4))
        if pixels > MAX_PIXELS:
            raise InputError(
                f"{whole[0]} x {whole[1]} pixels, at most {MAX_PIXELS:,} are read, "
                "of a JPEG four times, of a progressive one twice as many"
            )
        if progressive and _scans(file) > MAX_SCANS:
            raise InputError(f"a JPEG of more than {MAX_SCANS} scans")
        with _ONE if pixels > LARGE else nullcontext():
            image.load()
            yield image


def _scans(file: Path | bytes) -> int:
    """How many a JPEG has, those of its thumbnails too."""
    return (file if isinstance(file, bytes) else file.read_bytes()).count(b"\xff\xda")


def upright(image: Image.Image, image_size: Size, white: float = 0.0) -> np.ndarray:
    """What :func:`decode` makes of an opened image."""
    turn = _turn(image)
    if is_deep(image):
        pixels = np.asarray(image)
        white = find_white("pixels", [Extent.of(pixels)], white)
        image = Image.fromarray(to_uint8(pixels, white))
    if image.has_transparency_data:
        image = _on_white(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(fit(image if turn is None else image.transpose(turn), image_size))


def _on_white(image: Image.Image) -> Image.Image:
    """Transparency laid on white, in strips: a large image needs no copies but the result."""
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        box = (0, top, image.width, min(top + STRIP, image.height))
        strip = image.crop(box).convert("RGBA")
        backing = Image.new("RGBA", strip.size, "white")
        result.paste(Image.alpha_composite(backing, strip).convert("RGB"), box)
    return result


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What stands the image upright; the orientation is all that is asked of its EXIF."""
    try:
        return TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # Broken EXIF raises nearly everything, and the pixels are good.
        return None


def is_deep(image: Image.Image) -> bool:
    """Whether a pixel has more than 8 bits."""
    return image.mode[0] in "IF"
