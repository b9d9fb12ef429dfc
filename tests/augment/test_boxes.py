"""Random boxes: their distribution, what is cut out of them and painted over, against Pillow."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cxv_jax import augment
from cxv_jax.augment import boxes
from tests.augment.pictures import HEIGHT, WIDTH, make_images


def test_crop_and_resize_is_within_one_level_of_pillow():
    images, rng = make_images(24), np.random.default_rng(1)
    height, width = rng.integers(1, HEIGHT + 1, 24), rng.integers(1, WIDTH + 1, 24)
    top, left = rng.integers(0, HEIGHT - height + 1), rng.integers(0, WIDTH - width + 1)
    drawn = boxes.Boxes(*(jnp.array(value) for value in (top, left, height, width)))
    ours = np.asarray(jax.jit(boxes.crop_and_resize)(jnp.array(images), drawn), int)
    for image, mine, y, x, h, w in zip(images, ours, top, left, height, width, strict=True):
        crop = Image.fromarray(image[y : y + h, x : x + w])
        theirs = np.asarray(crop.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), int)
        assert np.abs(mine - theirs).max() <= 1


def test_sampled_boxes_follow_the_ranges():
    shape, area, ratio = (4000, 120, 200, 3), (0.08, 1.0), (3 / 4, 4 / 3)
    sample = jax.jit(lambda rng: boxes.sample_boxes(rng, shape, area, ratio, (120, 160)))
    top, left, height, width = (np.asarray(value) for value in sample(jax.random.key(0)))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 120).all()
    assert (left + width <= 200).all()
    small = height * width < 0.3 * 120 * 200  # Boxes that fit whatever their shape.
    assert (top + height == 120)[small].any()
    assert (left + width == 200)[small].any()
    part = (height * width)[small] / (120 * 200)
    assert stats.kstest(part, stats.uniform(0.08, 0.22).cdf).pvalue > 1e-3
    shapes = np.log(width / height)[small] / np.log(4 / 3)
    assert stats.kstest(shapes, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    place = ((top + np.random.default_rng(0).random(4000)) / (121 - height))[small]
    assert stats.kstest(place, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "box"),  # The box: left, upper, right, lower of torchvision's fallback.
    [(4, 40, (17, 0, 22, 4)), (40, 4, (0, 17, 4, 22))],
)
def test_random_resized_crop_falls_back_to_the_centre(height, width, box):
    """At scale 1 no box of an elongated image fits."""
    images = make_images(3, height=height, width=width)
    crop = jax.jit(partial(augment.random_resized_crop, scale=(1.0, 1.0)))
    result = crop(jax.random.key(0), jnp.array(images))
    for image, mine in zip(images, result, strict=True):
        centre = Image.fromarray(image).crop(box)
        theirs = centre.resize((width, height), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1


def _painted(image, output, fill):
    """Height and width of the one box set to ``fill``; fails if anything else has changed."""
    changed = (image != output).any(axis=-1)
    rows, columns = changed.any(axis=1), changed.any(axis=0)
    expected = np.where(np.outer(rows, columns)[..., None], np.uint8(fill), image)
    np.testing.assert_array_equal(output, expected)
    assert (np.diff(np.flatnonzero(rows)) == 1).all()
    assert (np.diff(np.flatnonzero(columns)) == 1).all()
    return rows.sum(), columns.sum()


@pytest.mark.parametrize("fill", [(0,), (3, 2, 1)])
def test_random_erasing_paints_one_box(fill):
    images = np.maximum(make_images(600, height=30, width=40), 10)  # No pixel looks painted.
    erase = jax.jit(partial(augment.random_erasing, probability=0.4, fill=fill))
    erased = np.asarray(erase(jax.random.key(0), jnp.array(images)))
    sizes = np.array([_painted(*pair, fill) for pair in zip(images, erased, strict=True)])
    sizes = sizes[sizes[:, 0] > 0]
    assert 180 < len(sizes) < 300  # 240 ± 5 deviations
    area = sizes.prod(axis=1) / 1200
    assert 0.015 < area.min() < 0.04
    assert 0.27 < area.max() < 0.35
    ratio = sizes[:, 1] / sizes[:, 0]
    assert 0.25 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 4


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_paints_a_clipped_square(size):
    images = np.maximum(make_images(800, height=11, width=9), 10)
    paint = jax.jit(partial(augment.cutout, size=size, fill=(7,)))
    painted = np.asarray(paint(jax.random.key(0), jnp.array(images)))
    sizes = [_painted(*pair, 7) for pair in zip(images, painted, strict=True)]
    half = (size + 1) // 2  # What is left of the square when its centre is the last row.
    assert set(sizes) == {
        *product(range(half, size + 1), repeat=2),
        *(() if size % 2 else product(range(size // 2, size + 1), repeat=2)),
    }
