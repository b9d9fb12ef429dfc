"""Pictures that are damaged, and pictures that are made to do harm."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, features

from tests.faults.damage import damage

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 4), np.uint8)
HUGE = 2**31 - 1
MAGICS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"P6\n"),
    *(b"RIFF\xff\xff\xff\xffWEBPVP8L", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0 ftypavif", b"P7\n"),
    *(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1", b"<svg/>", b"", b"\0"),
)


def encoded() -> dict[str, bytes]:
    """A good picture in every format, mode and compression that is read."""
    rgba, found = Image.fromarray(PIXELS), {}
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    floats = Image.fromarray(PIXELS[..., 0] / np.float32(255))
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 300
    wanted: list[tuple[str, Image.Image, dict]] = [
        *(("JPEG", image, {"exif": exif}) for image in (rgb, grey, rgb.convert("CMYK"))),
        ("JPEG", rgb, {"progressive": True}),
        *(("PNG", x, {"exif": exif}) for x in (rgb, rgba, grey, deep, rgb.convert("1"))),
        *(("PNG", rgba.convert("LA"), {}), ("PNG", palette, {"transparency": 0})),
        *(("GIF", palette, {"save_all": True, "append_images": [palette.rotate(180)]}),),
        *(("BMP", rgb, {}), ("BMP", palette, {}), ("PPM", rgb, {}), ("PPM", deep, {})),
        *(("TIFF", x, {"compression": "tiff_lzw", "exif": exif}) for x in (rgb, deep, rgba)),
        *(("TIFF", floats, {}), ("TIFF", rgb, {"compression": "jpeg"})),
        *(("JPEG2000", rgb, {}), ("JPEG2000", rgba, {}), ("MPO", rgb, {"save_all": True})),
        *(("WEBP", rgb, {}), ("WEBP", rgba, {"lossless": True})),
        ("WEBP", rgba, {"save_all": True, "append_images": [rgba.rotate(180)]}),
        *((("AVIF", rgb, {}), ("AVIF", rgba, {})) if features.check("avif") else ()),
    ]
    for number, (kind, image, options) in enumerate(wanted):
        file = io.BytesIO()
        image.save(file, kind, **options)
        found[f"{kind} {number}"] = file.getvalue()
    return found


def good(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every one of :func:`encoded`, and one of the most pixels that are read."""
    path = folder / "good.png"
    for name, content in [*encoded().items(), ("large", png(4000, 3000))]:
        path.write_bytes(content)
        yield name, path


def bad(folder: Path, number: int, rng: random.Random) -> Iterator[tuple[str, Path]]:
    """The hostile ones, then damaged ones, ``number`` in all."""
    path = folder / "bad.png"
    for name, make in hostile().items():
        make(path)
        yield name, path
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    fine = encoded()
    for i in range(number - len(hostile())):
        name = list(fine)[i % len(fine)]
        path.write_bytes(damage(fine[name], rng))
        yield f"{name} damaged, the {i}th", path


def hostile() -> dict[str, Callable[[Path], object]]:
    """What writes each file that is made to do harm."""
    found: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda p: p.symlink_to("/dev/zero"),
        "dangling link": lambda p: p.symlink_to("/nonexistent"),
        "link to itself": lambda p: p.symlink_to(p),
        "a terabyte of nothing": terabyte,
    }
    contents = {f"only {magic!r}": magic for magic in MAGICS}
    contents |= {f"{magic!r} and noise": magic + PIXELS.tobytes() for magic in MAGICS}
    for side in (60_000, 65_535, HUGE):
        contents[f"PNG of {side}"] = png(side, side, rows=9)
        head = struct.pack("<IHHIIiiHHIIiiII", 9, 0, 0, 54, 40, side, side, 1, 24, *[0] * 6)
        contents[f"BMP of {side}"] = b"BM" + head
        contents[f"PPM of {side}"] = f"P6 {side} {side} 255\n".encode()
    contents["GIF of 65535"] = b"GIF89a" + b"\xff" * 4 + encoded_as("GIF")[10:]
    for kind in ("", " progressive"):
        contents[f"JPEG of 65500{kind}"] = jpeg_of(65_500, progressive=bool(kind))
        contents[f"JPEG of 16000{kind}"] = jpeg_of(16_000, progressive=bool(kind))
    contents["JPEG of 3000 scans"] = many_scans(3000)
    for mode, channels in (("RGBA", 6), ("palette", 3), ("grey", 0)):
        contents[f"PNG of 61 million pixels, {mode}"] = png(7800, 7800, kind=channels)
    contents["PNG of 16 bits"] = png(7800, 7800, kind=0, bits=16)
    contents["PNG with 40 texts of 1 MB"] = png(8, 8, extra=40 * text(10**6))
    contents["PNG with a text of 1 GB"] = png(8, 8, extra=text(10**9))
    contents["TIFF whose directories go in a circle"] = tiff_circle()
    return {**found, **{name: partial(write, content) for name, content in contents.items()}}


def write(content: bytes, path: Path) -> None:
    """Make a file of this content."""
    path.write_bytes(content)


def terabyte(path: Path) -> None:
    """Make a file that holds nothing and takes no room."""
    path.touch()
    os.truncate(path, 2**40)


def encoded_as(kind: str) -> bytes:
    """The first of :func:`encoded` of a format."""
    return next(content for name, content in encoded().items() if name.startswith(kind))


def png(
    width: int, height: int, kind: int = 6, bits: int = 8, rows: int = 0, extra: bytes = b""
) -> bytes:
    """A PNG of zeros, of few bytes and made in little memory; ``rows``: only so many are there."""
    size = width * {0: 1, 3: 1, 6: 4}[kind] * bits // 8 + 1
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    if kind == 3:
        head += chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0")
    data = zeros(min(size, 2**20) * rows if rows else size * height)
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(number: int) -> bytes:
    """So many zeros, compressed."""
    packer, block = zlib.compressobj(1), bytes(2**20)
    parts = [packer.compress(block[: number - at]) for at in range(0, number, len(block))]
    return b"".join([*parts, packer.flush()])


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def text(number: int) -> bytes:
    """A compressed comment of so many characters."""
    return chunk(b"zTXt", b"Comment\0\0" + zeros(number))


def jpeg_of(side: int, progressive: bool) -> bytes:
    """A small JPEG that claims to be large, then has no end."""
    file = io.BytesIO()
    Image.fromarray(PIXELS[..., :3]).save(file, "JPEG", progressive=progressive)
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(content) + bytes(10**6)


def many_scans(number: int) -> bytes:
    """A progressive JPEG whose last scan is there many times."""
    file = io.BytesIO()
    Image.new("L", (8000, 7000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + number * last + content[-2:]


def tiff_circle() -> bytes:
    """A TIFF whose first directory is its next one."""
    file = io.BytesIO()
    Image.fromarray(PIXELS[..., :3]).save(file, "TIFF")
    content = bytearray(file.getvalue())
    start = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[start : start + 2])[0]
    end = start + 2 + 12 * entries
    content[end : end + 4] = struct.pack("<I", start)
    return bytes(content)
