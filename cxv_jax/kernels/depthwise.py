"""Depthwise convolution that is also fast on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.kernels.both_modes import both_modes
from cxv_jax.kernels.dispatch import formulations


def depthwise_convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kernel kernel 1 channels"],
    stride: int = 1,
) -> Float[Array, "batch out_height out_width channels"]:
    """``out_{h,w,c} = sum_{i,j} kernel_{i,j,c} x_{s h + i - p, s w + j - p, c}``, ``p = k // 2``.

    XLA's grouped convolution, except on a CPU, where that is slow: there a sum of shifted copies
    with a written-out backward pass.
    Sums are float32. Cost: ``O(kernel^2)`` a pixel and channel; on a CPU, strides save nothing.

    Args:
      x: ``[batch, height, width, channels]``.
      kernel: ``[kernel, kernel, 1, channels]``.
      stride: step between outputs, in pixels.

    Returns:
      ``[batch, out_height, out_width, channels]`` in the type of ``x``.
    """
    run = formulations(cpu=partial(shifted, stride=stride), default=partial(grouped, stride=stride))
    return run(x, kernel)


def grouped(x: Array, kernel: Array, stride: int = 1) -> Array:
    """XLA's grouped convolution, the plain form of :func:`shifted`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((kernel.shape[0] // 2,) * 2,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted(x: Array, kernel: Array, stride: int = 1) -> Array:
    """The sum of shifted copies, of which a stride takes some."""
    out = _shift_and_add(x, kernel)
    # These ends give sizes, of symbols of jax.export too, that JAX sees are those of `grouped`.
    tall, wide = ((n - 1) // stride * stride + 1 for n in out.shape[1:3])
    return out[:, :tall:stride, :wide:stride]


def _pad(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def _correlate(x: Array, kernel: Array, pad: int) -> Array:
    k, x = kernel.shape[0], _pad(x, pad)
    height, width = (n - k + 1 for n in x.shape[1:3])
    weights = kernel[:, :, 0].astype(jnp.float32)[:, :, None, None, None]
    terms = [
        weights[i, j] * x[:, i : i + height, j : j + width] for i in range(k) for j in range(k)
    ]
    return sum(terms[1:], start=terms[0]).astype(x.dtype)


def _plain(x: Array, kernel: Array) -> Array:
    return _correlate(x, kernel, kernel.shape[0] // 2)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    k = kernel.shape[0]
    dx = _correlate(gradient, kernel[::-1, ::-1], k - 1 - k // 2)
    padded, wide = _pad(x, k // 2), gradient.astype(jnp.float32)

    def of_tap(tap: Array) -> Array:
        window = jax.lax.dynamic_slice(padded, (0, tap // k, tap % k, 0), wide.shape)
        return jnp.sum(window * wide, (0, 1, 2))

    # A loop: side by side, XLA keeps the products of all taps before it sums any.
    sums = jax.lax.map(of_tap, jnp.arange(k * k))
    return dx, sums.reshape(kernel.shape).astype(kernel.dtype)


_shift_and_add = both_modes(_plain, _backward)
