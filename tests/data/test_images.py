"""Decoding image files: orientation, modes, crop and resize, against NumPy and jax.image."""

import io
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from cxv_jax.data.image_files import ImageFiles
from cxv_jax.data.images import ENDINGS, Resized, decode, fit
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError

RANDOM = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


def packed(pixels, kind: str = "PNG", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_square_image_of_the_right_size_is_left_alone():
    np.testing.assert_array_equal(decode(packed(RANDOM), 24), RANDOM)


@pytest.mark.parametrize("shape", [(24, 31), (31, 24), (24, 25)])
def test_the_centre_is_cropped(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    top, left = ((side - 24) // 2 for side in shape)
    expected = pixels[top : top + 24, left : left + 24]
    np.testing.assert_array_equal(decode(packed(pixels), 24), expected)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((50, 30), 12), ((30, 55), 12), ((9, 7), 20), ((50, 30), (12, 16)), ((30, 55), (20, 8))],
)
def test_pictures_are_resized_to_cover_without_aliasing(shape, size):
    pixels = np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)
    sides = (size, size) if isinstance(size, int) else size
    scale = max(wanted / had for wanted, had in zip(sides, shape, strict=True))
    target = [round(side * scale) for side in shape]
    resized = np.asarray(jax.image.resize(pixels.astype(np.float32), (*target, 3), "linear"))
    top, left = ((had - side) // 2 for had, side in zip(target, sides, strict=True))
    expected = resized[top : top + sides[0], left : left + sides[1]]
    assert abs(decode(packed(pixels), size) - expected).max() <= 1.01  # Pillow rounds twice.


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(packed(RANDOM, exif=exif), 24), upright(RANDOM))


GREY = RANDOM[..., 0]
ALPHA = np.concatenate([RANDOM, RANDOM[:, ::-1, :1]], -1)
OPACITY = ALPHA[..., 3:] / 255


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY[..., None].repeat(3, -1)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 77), GREY[..., None].repeat(3, -1)),
        (Image.fromarray(GREY > 99), np.where(GREY > 99, 255, 0)[..., None].repeat(3, -1)),
        (Image.fromarray(RANDOM).quantize(16), None),
        (Image.fromarray(ALPHA), RANDOM * OPACITY + 255 * (1 - OPACITY)),
        (Image.merge("LA", [Image.fromarray(GREY)] * 2), None),
    ],
    ids=["grey", "16 bits", "1 bit", "palette", "transparent", "grey and transparent"],
)
def test_modes(image, expected):
    if image.mode == "P":
        palette = np.array(image.getpalette()).reshape(-1, 3)
        expected = palette[np.asarray(image)]
    if image.mode == "LA":
        opacity = GREY[..., None] / 255
        expected = (GREY[..., None] * opacity + 255 * (1 - opacity)).repeat(3, -1)
    got = decode(packed(image), 24)
    assert got.dtype == np.uint8
    assert abs(got.astype(int) - expected).max() <= 1


def test_a_transparent_palette_lies_on_white():
    image = Image.fromarray(RANDOM).quantize(16)
    clear = np.asarray(image) == 3
    got = decode(packed(image, transparency=3), 24)
    assert clear.any()
    assert (got[clear] == 255).all()
    assert (got[~clear] == np.asarray(image.convert("RGB"))[~clear]).all()


def test_cmyk_jpeg_and_the_first_frame_of_a_gif():
    flat = np.full((24, 24, 3), (200, 50, 50), np.uint8)
    jpeg = packed(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95)
    assert abs(decode(jpeg, 24).astype(int) - flat).max() <= 4
    frames = [Image.fromarray(np.full((24, 24), level, np.uint8)) for level in (10, 200)]
    gif = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(gif, 24) == 10).all()


def test_large_jpegs_decoded_small_look_the_same():
    y, x = np.mgrid[:640, :800]  # Waves of 16 pixels: 4 pixels at the size that is asked for.
    waves = 127 + 60 * np.sin(y * np.pi / 8) + 60 * np.cos(x * np.pi / 8)
    jpeg = packed(waves[..., None].repeat(3, -1).astype(np.uint8), "JPEG", quality=95)
    whole = fit(Image.open(io.BytesIO(jpeg)).convert("RGB"), 160)
    assert abs(decode(jpeg, 160).astype(int) - np.asarray(whole)).max() <= 12


def test_files_are_decoded_at_the_asked_indices(tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (5, 6, 6, 3), np.uint8)
    files: list[bytes | Path] = [packed(image) for image in images]
    (tmp_path / "2.png").write_bytes(packed(images[2]))
    files[2] = tmp_path / "2.png"
    lazy = ImageFiles(files, 6)
    assert (len(lazy), lazy.image_shape) == (5, (6, 6, 3))
    for index in (np.array([4, 2, 2]), slice(1, 3)):
        np.testing.assert_array_equal(lazy[index], images[index])


def test_any_source_can_be_resized():
    native, resized = (load("digits", image_size=size).splits["val"] for size in (0, 16))
    assert isinstance(resized.images.images, Resized)
    assert resized.image_shape == (16, 16, 3)
    got = resized.images[np.array([5])][0]
    expected = jax.image.resize(native.images[5].astype(np.float32), (16, 16, 3), "linear")
    assert abs(got - np.asarray(expected)).max() <= 1.01
    np.testing.assert_array_equal(load("digits", image_size=8).splits["val"].images, native.images)


def with_exif(jpeg: bytes, entries: list[tuple[int, int, bytes]], extra: bytes = b"") -> bytes:
    """A JPEG with EXIF of these (tag, type, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    ifd = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + extra
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(ifd) + 8) + b"Exif\0\0" + ifd + jpeg[2:]


@pytest.mark.parametrize("tag", [0x011A, 0x010F], ids=["0/0 resolution", "a number for a maker"])
def test_broken_exif_refuses_no_picture_and_turns_it(tag):
    jpeg = packed(RANDOM, "JPEG")
    orientation = (0x0112, 3, struct.pack("<HH", 6, 0))
    broken = (tag, 5, struct.pack("<I", 8 + 2 + 24 + 4))
    got = decode(with_exif(jpeg, [orientation, broken], struct.pack("<II", 0, 0)), 24)
    np.testing.assert_array_equal(got, np.rot90(decode(jpeg, 24), -1))


def test_exif_that_is_none_refuses_no_picture():
    jpeg = packed(RANDOM, "JPEG")
    garbage = jpeg[:2] + b"\xff\xe1\0\x16Exif\0\0garbage garbag" + jpeg[2:]
    np.testing.assert_array_equal(decode(garbage, 24), decode(jpeg, 24))


@pytest.mark.parametrize("orientation", [3, 6])
def test_tiffs_are_turned_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = packed(RANDOM, "TIFF", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(decode(content, 24), np.asarray(upright))


@pytest.mark.parametrize("shape", [(30000, 1, 3), (1, 30000, 3), (3, 30000, 3)])
def test_a_thin_picture_takes_no_more_memory_than_its_crop(shape):
    pixels = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    content = packed(pixels)
    middle = [slice(max(0, n // 2 - 30), n // 2 + 30) for n in shape[:2]]
    expected = fit(Image.fromarray(np.ascontiguousarray(pixels[tuple(middle)])), 60)
    blocks = Image.core.get_stats()["allocated_blocks"]  # Pillow's own 16 MB blocks.
    got = decode(content, 60)
    assert Image.core.get_stats()["allocated_blocks"] - blocks < 8
    np.testing.assert_array_equal(got, np.asarray(expected))


def test_formats_that_start_programs_are_never_opened(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    path = tmp_path / "x.png"
    Image.fromarray(RANDOM).save(path, "EPS")
    with pytest.raises(Exception, match="cannot identify"):
        decode(path, 24)
    assert not started


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr("cxv_jax.data.images.MAX_PIXELS", 575)
    png, jpeg = packed(RANDOM), packed(np.tile(RANDOM, (2, 2, 1))[:46], "JPEG")
    with pytest.raises(InputError, match="24 x 24 pixels, at most 575"):
        decode(png, 24)
    assert decode(jpeg, 6).shape == (6, 6, 3)  # Of 2,208 pixels: reduced as it is read.
    with pytest.raises(InputError, match="48 x 46 pixels, at most 575"):
        decode(packed(np.tile(RANDOM, (2, 2, 1))[:46], "JPEG", progressive=True), 6)


def test_pictures_of_phones_are_read_with_the_extra_heif(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is only in the extra heif")
    heif.from_pillow(Image.new("RGB", (40, 30), (200, 100, 50))).save(tmp_path / "a.heic")
    pixels = decode(tmp_path / "a.heic", 8)
    np.testing.assert_allclose(pixels, np.broadcast_to([200, 100, 50], (8, 8, 3)), atol=6)
    assert ".heic" in ENDINGS
