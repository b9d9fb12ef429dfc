"""Linformer attention: keys and values projected to a fixed number of tokens."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments, widened, without_tokens
from cxv_jax.kernels import heads_first, product
from cxv_jax.kernels.meshes import as_first


def linformer_attention(
    query: Float[Array, "*batch q_length heads head_dim"],
    key: Float[Array, "*batch kv_length kv_heads head_dim"],
    value: Float[Array, "*batch kv_length kv_heads value_dim"],
    bias: None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    projection: Float[Array, "tokens projected"],
) -> Float[Array, "*batch q_length heads value_dim"]:
    """Softmax attention to mixtures of tokens: ``out = softmax(c q (E^T k)^T) (E^T v)``.

    ``E`` is ``projection`` and ``c = head_dim^(-1/2)``: one learned matrix for the keys, the
    values and all heads. It ties the model to one ``kv_length``. A masked token is left out of
    every mixture.

    Source: Wang et al. 2020 (arXiv 2006.04768), eq. 7, with their sharing of ``E = F``.

    Cost: ``O(length * heads * projected * head_dim)`` time, ``O(length * heads * projected)``
    memory.

    Args:
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads or 1, head_dim]``; 1: all heads share it.
      value: ``[..., kv_length, heads or 1, value_dim]``.
      bias: not supported, must be None.
      mask: key padding mask ``[..., heads or 1, 1, kv_length]``, True = attend.
      projection: ``[kv_length, projected]``.

    Returns:
      ``[..., q_length, heads, value_dim]`` in the type of ``value``; 0 where all keys are masked.

    Raises:
      ValueError: for a bias, a query-dependent mask, integers or ill-fitting shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> linformer_attention(x, x, x, projection=jnp.ones((100, 16)) / 100).shape
      (2, 100, 4, 8)
    """
    if key.shape[-2] not in (1, query.shape[-2]):
        raise ValueError(f"keys need 1 head or the query's {query.shape[-2]}, got {key.shape[-2]}")
    if projection.shape[0] != key.shape[-3]:
        raise ValueError(f"projection {projection.shape} does not fit key {key.shape}")
    key_mask = check_arguments(query[..., : key.shape[-2], :], key, value, bias, mask)
    if (nothing := without_tokens(query, key, value)) is not None:
        return nothing
    q, k, v = (heads_first(x) for x in widened(query, key, value))
    return heads_first(as_first(_attend, q, k, v, key_mask, projection)).astype(value.dtype)


def _attend(q: Array, k: Array, v: Array, key_mask: Array | None, projection: Array) -> Array:
    if key_mask is not None:
        k, v = (jnp.where(key_mask[..., None], x, 0) for x in (k, v))
    k, v = (_mix(x, projection).astype(x.dtype) for x in (k, v))
    scores = q.shape[-1] ** -0.5 * product("...qd,...kd->...qk", q, k)
    return product("...qk,...ke->...qe", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _mix(x: Array, projection: Array) -> Array:
    # This way round: XLA for CPUs has no bfloat16 product of the other.
    return product("nk,...nd->...kd", projection.astype(x.dtype), x)
