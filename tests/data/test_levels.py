"""Pixels of more than 8 bits: one rule for folders and arrays, over the whole set, said aloud."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data.images import decode
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
GREY[:, 0, :2] = 0, 255  # So that the range is whole.
LABELS = np.arange(20) % 2


def folder(place, pixels, ending="tif"):
    for i, image in enumerate(pixels):
        path = place / "set" / "ab"[LABELS[i]] / f"{i:02}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return f"folder:{place}/set"


def arrays(place, pixels):
    np.savez(place / "set.npz", images=pixels, labels=LABELS)
    return f"npz:{place}/set.npz"


def everything(source):
    """All pictures, in an order that does not depend on the splits."""
    dataset = load(source, image_size=8, val_fraction=0.0)
    parts = [split.images[np.arange(len(split))][..., 0] for split in dataset.splits.values()]
    found = np.concatenate(parts)
    return found[np.lexsort(found.reshape(20, -1).T)], dataset


ORDERED = GREY[np.lexsort(GREY.reshape(20, -1).T)]


@pytest.mark.parametrize("write", [folder, arrays])
@pytest.mark.parametrize(
    ("dtype", "white", "pixels"),
    [
        ("f4", 1, GREY / 255),
        ("f4", 255, GREY),
        ("i4", 255, GREY),
        ("u2", 4095, np.round(GREY * (4095 / 255))),
        ("u2", 16383, np.round(GREY * (16383 / 255))),
        ("u2", 65535, GREY * 257.0),
    ],
)
def test_one_rule_for_all_sources(tmp_path, caplog, write, dtype, white, pixels):
    with caplog.at_level(logging.INFO):
        got, dataset = everything(write(tmp_path, np.asarray(pixels).astype(dtype)))
    np.testing.assert_array_equal(got, ORDERED)
    assert dataset.white == white
    assert f"to {white} (white)" in caplog.text


def test_twelve_bits_in_png_keep_their_grey_levels(tmp_path):
    got, _ = everything(folder(tmp_path, np.round(GREY * (4095 / 255)).astype("u2"), "png"))
    np.testing.assert_array_equal(got, ORDERED)


@pytest.mark.parametrize("write", [folder, arrays])
@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("f4", np.nan, "NaN or infinite"),
        ("f4", -0.5, "values -0.5 to 255"),
        ("f4", 4000, "values 0 to 4000"),
        ("i4", -1000, "values -1000 to 255"),
        ("i4", 70000, "values 0 to 70000"),
    ],
)
def test_other_values_are_refused(tmp_path, write, dtype, value, message):
    pixels = GREY.astype(dtype)
    pixels[7, 3, 3] = value
    with pytest.raises(InputError, match=message):
        everything(write(tmp_path, pixels))


def test_pictures_of_8_bits_keep_theirs_beside_deeper_ones(tmp_path):
    source = folder(tmp_path, GREY[:10], "png")
    for i in range(10):
        Image.fromarray(np.round(GREY[10 + i] * (4095 / 255)).astype("u2")).save(
            tmp_path / "set" / "ab"[LABELS[i]] / f"deep{i}.png"
        )
    got, _ = everything(source)
    np.testing.assert_array_equal(got, ORDERED)


def test_a_set_too_large_for_memory_has_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("cxv_jax.data.image_files.KEEP_BYTES", 10)
    got, _ = everything(folder(tmp_path, np.round(GREY * (4095 / 255)).astype("u2"), "png"))
    np.testing.assert_array_equal(got, ORDERED)


def test_one_picture_is_read_by_the_white_of_its_set():
    file = io.BytesIO()
    dark = np.round(GREY[0] * (4095 / 255) / 20).astype("u2")  # Alone it would pass for 8 bits.
    Image.fromarray(dark).save(file, "PNG")
    got = decode(file.getvalue(), 8, 4095)[..., 0]
    np.testing.assert_array_equal(got, np.round(dark * (255 / 4095)))
    with pytest.raises(ValueError, match=r"to 205\b.*0 to 100"):
        decode(file.getvalue(), 8, 100)


@pytest.mark.parametrize(("level", "words"), [(7, "constant"), (20, "nearly black")])
def test_constant_and_dark_sets_are_told(tmp_path, caplog, level, words):
    pixels = np.full_like(GREY, 7)
    pixels[:, 4:] = level
    with caplog.at_level(logging.WARNING):
        everything(arrays(tmp_path, pixels))
    assert words in caplog.text
