"""Matrix products that sum in float32, and the softmax before one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

MASKED = -1e30  # Finite, so that a row with every key masked gives 0 and not NaN.


def product(formula: str, a: Array, b: Array) -> Array:
    """``einsum(formula, a, b)``, summed and returned in float32 whatever the input types."""
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def heads_first(x: Array) -> Array:
    """``[..., length, heads, dim]`` to ``[..., heads, length, dim]`` or back: products' layout."""
    return jnp.swapaxes(x, -3, -2)


def pad(x: Array, axis: int, before: Any, after: Any) -> Array:
    """Zeros around one axis: numbers, or symbols of ``jax.export``."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def softmax(scores: Array, mask: Array | None = None) -> Array:
    """Softmax over the last axis of ``[..., n, m]``; 0 in masked columns, ``mask [..., m]``."""
    powers, sums = _powers(scores, mask)
    return powers / sums


def softmax_product(scores: Array, values: Array, mask: Array | None = None) -> Array:
    """``softmax(scores) values`` in float32, divided after the product, which is smaller.

    Args:
      scores: ``[..., n, m]``, float32.
      values: ``[..., m, e]``.
      mask: ``[..., m]``, True = attend; 0 where a row has no other.
    """
    powers, sums = _powers(scores, mask)
    return product("...nm,...me->...ne", powers.astype(values.dtype), values) / sums


def _powers(scores: Array, mask: Array | None) -> tuple[Array, Array]:
    """Exponentials, 0 where masked, and their row sums, not 0."""
    if mask is not None:
        scores = jnp.where(mask[..., None, :], scores, MASKED)
    # The maximum cancels, so its gradient is 0.
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if mask is not None:
        powers = powers * mask[..., None, :]
    sums = powers.sum(-1, keepdims=True)
    return powers, sums if mask is None else jnp.where(sums > 0, sums, 1)
