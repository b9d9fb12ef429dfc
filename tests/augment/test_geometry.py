"""Flips and crops against NumPy's; the warp is tested with the policies."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import augment
from tests.augment.pictures import HEIGHT, WIDTH, make_images


def test_flip_mirrors_half_of_the_images():
    images = make_images(512)
    flipped = np.asarray(jax.jit(augment.random_flip)(jax.random.key(0), jnp.array(images)))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 200 < mirrored.sum() < 312  # 256 ± 5 deviations


@pytest.mark.parametrize("padding", [1, 3])
def test_pad_and_crop_reaches_every_window(padding):
    image = make_images(1)[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = product(range(2 * padding + 1), repeat=2)
    windows = {padded[y : y + HEIGHT, x : x + WIDTH].tobytes() for y, x in places}
    crop = jax.jit(partial(augment.pad_and_crop, padding=padding))
    crops = np.asarray(crop(jax.random.key(0), jnp.array([image] * 512)))
    assert {crop.tobytes() for crop in crops} == windows
