"""The CPU's depthwise convolution against XLA's grouped one, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.kernels import depthwise_convolution


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


def test_sums_are_float32() -> None:
    x = jnp.ones((1, 9, 9, 1), jnp.bfloat16)
    kernel = jnp.full((9, 9, 1, 1), 0.01, jnp.bfloat16)
    want = 81 * float(kernel[0, 0, 0, 0])
    got = float(depthwise_convolution(x, kernel)[0, 4, 4, 0])
    assert abs(got - want) < 2**-8  # One rounding, of the result.
