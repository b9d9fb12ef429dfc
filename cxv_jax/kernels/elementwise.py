"""Normalisation, GELU and dropout with written-out gradients that keep as little as possible."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.kernels.both_modes import both_modes, linear
from cxv_jax.kernels.recompute import recomputed


def channel_norm(x: Array, scale: Array, bias: Array) -> Array:
    """``(x - mu) / (sigma + 1e-5) * scale + bias`` over the last axis, in float32 inside.

    The epsilon is outside the root, as in CXV's code (``CPV.py``, see docs/sources.md). Where
    ``sigma`` is 0 the gradient with respect to ``x`` is 0; the reference's is NaN there.

    Args:
      x: ``[..., channels]``.
      scale: ``[channels]``.
      bias: ``[channels]``.

    Returns:
      ``[..., channels]`` in the type of ``x``.
    """
    return _channel_norm(x, scale, bias)


def _last_axis(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _standardise(x: Array) -> tuple[Array, Array, Array]:
    """Centred values, sigma, and 1 / (sigma + epsilon), all float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    sigma = jnp.sqrt(jnp.mean(centred * centred, -1, keepdims=True))
    return centred, sigma, 1 / (sigma + 1e-5)


def _channel_norm_forward(x: Array, scale: Array, bias: Array) -> Array:
    centred, _, inverse = _standardise(x)
    out = centred * inverse * _last_axis(scale, x) + _last_axis(bias, x)
    return out.astype(x.dtype)


def _channel_norm_backward(saved: Any, gradient: Array) -> tuple[Array, Array, Array]:
    x, scale = recomputed(saved[:2], gradient)
    centred, sigma, inverse = _standardise(x)
    gradient = gradient.astype(jnp.float32)
    normed = centred * inverse
    leading = tuple(range(x.ndim - 1))
    d_scale, d_bias = (gradient * normed).sum(leading), gradient.sum(leading)
    gradient = gradient * _last_axis(scale, x)
    along = jnp.mean(gradient * normed, -1, keepdims=True)
    positive = sigma > 0
    per_sigma = jnp.where(positive, 1 / jnp.where(positive, sigma, 1), 0)
    dx = (gradient - gradient.mean(-1, keepdims=True) - along * centred * per_sigma) * inverse
    return jnp.where(positive, dx, 0).astype(x.dtype), d_scale, d_bias


_channel_norm = both_modes(_channel_norm_forward, _channel_norm_backward)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, ``x (1 + erf(x / sqrt 2)) / 2``, in float32 inside.

    Through erf, which XLA computes faster than the erfc of ``jax.nn.gelu``. Keeps only ``x`` for
    the backward pass, ``g (Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi))``.
    """
    return _gelu(x)


def _gelu_forward(x: Array) -> Array:
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_backward(saved: tuple[Array], gradient: Array) -> tuple[Array]:
    (x,) = saved
    y = recomputed(x, gradient).astype(jnp.float32)
    slope = _normal_cdf(y) + y * jnp.exp(-0.5 * y * y) * (2 * jnp.pi) ** -0.5
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


_gelu = both_modes(_gelu_forward, _gelu_backward)


def dropout(x: Float[Array, "*shape"], rng: Array, rate: float) -> Float[Array, "*shape"]:
    """Zero each element with probability ``rate``, scale the others by ``1 / (1 - rate)``.

    Draws bits, not floats, which would cost as much as a matrix product: 1 bit an element where
    ``2 rate`` is whole, 8 where ``256 rate`` is, else 16 (``rate`` is then rounded to a multiple
    of 2^-16). The backward pass keeps those bits, not a mask of bytes or floats.

    Args:
      x: ``[..., channels]``.
      rng: random key.
      rate: at least 0, below 1.
    """
    bits = next((n for n in (1, 8) if (rate * 2**n).is_integer()), 16)
    per_word = 32 // bits
    words = jax.random.bits(rng, (*x.shape[:-1], -(-x.shape[-1] // per_word)), jnp.uint32)
    return _drop(bits, rate, x, words)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _drop(bits: int, rate: float, x: Array, words: Array) -> Array:
    shifts = jnp.arange(0, 32, bits, dtype=jnp.uint32).reshape((1,) * words.ndim + (-1,))
    fields = (words[..., None] >> shifts) & jnp.uint32(2**bits - 1)
    fields = jax.lax.collapse(fields, x.ndim - 1)[..., : x.shape[-1]]
    keep = fields >= jnp.uint32(min(round(rate * 2**bits), 2**bits - 1))
    return jnp.where(keep, x * (1 / (1 - rate)), 0).astype(x.dtype)


@_drop.defjvp
def _drop_rule(bits: int, rate: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    out, words = _drop(bits, rate, *primals), primals[1]
    again = partial(_drop_again, bits, rate)
    return out, linear(again, again, words, tangents[:1], [out])[0]


def _drop_again(bits: int, rate: float, words: Array, x: Array) -> list[Array]:
    """Its own transpose."""
    return [_drop(bits, rate, x, words)]
