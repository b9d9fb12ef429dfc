"""Normalisation by its formula; the other colours are tested with the policies."""

import jax.numpy as jnp
import numpy as np

from cxv_jax import augment
from tests.augment.pictures import make_images


def test_normalise():
    images, mean, std = make_images(2), (0.49, 0.48, 0.45), (0.2, 0.3, 0.25)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    result = augment.normalise(jnp.array(images), mean, std)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.dtype == jnp.float32
