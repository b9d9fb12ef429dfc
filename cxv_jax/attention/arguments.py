"""What every attention function here accepts, and what linear attention cannot honour."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def check_arguments(query: Array, key: Array, value: Array, bias: Any, mask: Any) -> Array | None:
    """Check shapes; return the key padding mask as ``[..., heads or 1, kv_length]`` or None.

    Args:
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads, head_dim]``.
      value: ``[..., kv_length, heads, value_dim]``.
      bias: must be None: there is no score matrix to add it to.
      mask: None, or boolean and broadcastable to ``[..., heads, q_length, kv_length]`` with an
        axis of 1 in place of ``q_length``; True means "attend to this key".

    Raises:
      ValueError: for a bias, a mask that depends on the query, or shapes that do not fit.
    """
    if bias is not None:
        raise ValueError("linear attention never forms the score matrix: it cannot take a bias")
    if query.ndim < 3 or query.shape[:-3] != key.shape[:-3]:
        raise ValueError(f"query and key must share batch axes: {query.shape} and {key.shape}")
    if query.shape[-2:] != key.shape[-2:] or key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            "expected [..., length, heads, head_dim] with the same heads and head_dim, "
            f"got query {query.shape}, key {key.shape}, value {value.shape}"
        )
    if mask is None:
        return None
    if mask.dtype != jnp.bool_:
        raise ValueError(f"a mask must be boolean (True = attend), got {mask.dtype}")
    if mask.ndim < 2 or mask.shape[-2] != 1 or mask.shape[-1] not in (1, key.shape[-3]):
        raise ValueError(
            "linear attention takes key padding masks only: [..., heads or 1, 1, kv_length] "
            f"with kv_length {key.shape[-3]}, got {mask.shape}"
        )
    mask = mask.reshape((1,) * (key.ndim - mask.ndim) + mask.shape)[..., 0, :]
    return jnp.broadcast_to(mask, (*key.shape[:-3], mask.shape[-2], key.shape[-3]))


def heads_first(x: Array) -> Array:
    """``[..., length, heads, dim]`` to ``[..., heads, length, dim]``: the products' fast layout."""
    return jnp.swapaxes(x, -3, -2)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def divide(numerator: Array, denominator: Array, dtype: Any = jnp.float32) -> Array:
    """``numerator / denominator``, and 0 where no key was left to attend to.

    Keeps the quotient in ``dtype`` for the backward pass, which the next product keeps anyway,
    and not the numerator.
    """
    return (numerator / jnp.where(denominator == 0, 1, denominator)).astype(dtype)


def _divide_forward(
    numerator: Array, denominator: Array, dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    quotient = divide(numerator, denominator, dtype)
    return quotient, (quotient, denominator)


def _divide_backward(
    dtype: Any, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    quotient, denominator = saved
    scaled = divide(gradient.astype(jnp.float32), denominator)
    summed = tuple(i for i, n in enumerate(denominator.shape) if n == 1)
    # An axis of 1 in both is summed too, which changes nothing.
    return scaled, -(scaled * quotient.astype(jnp.float32)).sum(summed, keepdims=True)


divide.defvjp(_divide_forward, _divide_backward)
