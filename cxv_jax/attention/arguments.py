"""What every attention function here accepts, and what linear attention cannot honour."""

from typing import Any

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
      ValueError: for a bias, a mask that depends on the query, shapes that do not fit or integers.
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
    if query.shape[-1] == 0:
        raise ValueError(f"head_dim must be at least 1, got query {query.shape}")
    check_floats(query=query, key=key, value=value)
    if mask is None:
        return None
    if mask.dtype != jnp.bool_:
        raise ValueError(f"a mask must be boolean (True = attend), got {mask.dtype}")
    if mask.ndim < 2 or mask.shape[-2] != 1 or mask.shape[-1] not in (1, key.shape[-3]):
        raise ValueError(
            "linear attention takes key padding masks only: [..., heads or 1, 1, kv_length] "
            f"with kv_length {key.shape[-3]}, got {mask.shape}"
        )
    shape = (*key.shape[:-3], key.shape[-2], 1, key.shape[-3])
    mask = mask.reshape((1,) * (key.ndim - mask.ndim) + mask.shape)
    if mask.ndim > key.ndim or any(n not in (1, m) for n, m in zip(mask.shape, shape, strict=True)):
        raise ValueError(f"a mask must broadcast to {shape}, got {mask.shape}")
    mask = mask[..., 0, :]
    return jnp.broadcast_to(mask, (*key.shape[:-3], mask.shape[-2], key.shape[-3]))


def check_stabilizer(stabilizer: str) -> None:
    """Refuse what is neither ``"example"`` nor ``"batch"``."""
    if stabilizer not in ("example", "batch"):
        raise ValueError(f"stabilizer must be 'example' or 'batch', got {stabilizer!r}")


def check_floats(**arrays: Array) -> None:
    """Refuse integers, whose results would be rounded to integers."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floats, got {array.dtype}: convert it to float32")


def widened(*arrays: Array) -> list[Array]:
    """float16 as float32: no sum over thousands of tokens fits it, in the backward pass neither."""
    return [x.astype(jnp.float32) if x.dtype == jnp.float16 else x for x in arrays]


def without_tokens(query: Array, key: Array, value: Array) -> Array | None:
    """What no tokens give, zeros as from ``jax.nn.dot_product_attention``; None where there are."""
    if 0 not in (*query.shape[:-1], *value.shape):
        return None
    return jnp.zeros((*query.shape[:-1], value.shape[-1]), value.dtype)
