"""Winograd's convolution against the library's, value and gradients, at any size."""

import jax
import numpy as np
import pytest

from cxv_jax.kernels import conv_3x3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (1, 3), (4, 13)])
def test_winograd_equals_the_librarys_convolution(height: int, width: int) -> None:
    rngs = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(rngs[0], (2, height, width, 5))
    kernel = jax.random.normal(rngs[1], (3, 3, 5, 11))
    gradient = jax.random.normal(rngs[2], (2, height, width, 11))

    def library(x: jax.Array, kernel: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    got, got_vjp = jax.vjp(conv_3x3, x, kernel)
    want, want_vjp = jax.vjp(library, x, kernel)
    pairs = zip((got, *got_vjp(gradient)), (want, *want_vjp(gradient)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
