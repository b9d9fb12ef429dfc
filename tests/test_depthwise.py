"""The CPU's depthwise convolution against XLA's grouped one, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.models.depthwise import depthwise_convolution


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 1), (4, 3)])
def test_equals_the_grouped_convolution(k: int, stride: int) -> None:
    numbers = np.random.default_rng(0)
    x = jnp.asarray(numbers.normal(size=(2, 11, 7, 3)), jnp.float32)
    kernel = jnp.asarray(numbers.normal(size=(k, k, 1, 3)), jnp.float32)

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((k // 2, k // 2), (k // 2, k // 2)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    want, want_back = jax.vjp(grouped, x, kernel)
    got, got_back = jax.vjp(lambda x, kernel: depthwise_convolution(x, kernel, stride), x, kernel)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    direction = jnp.asarray(numbers.normal(size=want.shape), jnp.float32)
    for mine, theirs in zip(got_back(direction), want_back(direction), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-5)
