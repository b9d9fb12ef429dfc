"""Linear Transformer attention: kernel feature maps instead of the softmax of a score matrix."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments
from cxv_jax.kernels import MASKED, divide, heads_first, product


def linear_attention(
    query: Float[Array, "*batch q_length heads head_dim"],
    key: Float[Array, "*batch kv_length heads head_dim"],
    value: Float[Array, "*batch kv_length heads value_dim"],
    bias: None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    feature_map: Literal["softmax", "elu"] = "softmax",
) -> Float[Array, "*batch q_length heads value_dim"]:
    r"""Attention as two small products: ``out = phi_q(q) (phi_k(k)^T v)``, normalised.

    ``feature_map="softmax"`` (CLTV's, Shen et al. 2018, arXiv 1812.01243):
    ``out_n = softmax_d(c q_n) . sum_m softmax_m(c k_m) v_m^T`` with ``c = head_dim^(-1/4)``; the
    keys' softmax runs over the tokens, so the weights of every feature sum to 1.

    ``feature_map="elu"`` (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 5 and 7):
    ``out_n = phi(q_n) . (sum_m phi(k_m) v_m^T) / (phi(q_n) . sum_m phi(k_m))``,
    ``phi = elu + 1``. Ours has no epsilon in the denominator, which is positive by itself.

    Cost: ``O(length * heads * head_dim^2)`` time, ``O(length * heads * head_dim)`` memory.
    Products accumulate in float32 whatever the input type.

    Args:
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads, head_dim]``.
      value: ``[..., kv_length, heads, value_dim]``.
      bias: not supported, must be None.
      mask: key padding mask ``[..., heads or 1, 1, kv_length]``, True = attend.
      feature_map: ``"softmax"`` or ``"elu"``.

    Returns:
      ``[..., q_length, heads, value_dim]`` in the type of ``value``; 0 where all keys are masked.

    Raises:
      ValueError: for a bias, a query-dependent mask, an unknown feature map or ill-fitting shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> linear_attention(x, x, x).shape
      (2, 100, 4, 8)
    """
    if feature_map not in ("softmax", "elu"):
        raise ValueError(f"feature_map must be 'softmax' or 'elu', got {feature_map!r}")
    key_mask = check_arguments(query, key, value, bias, mask)
    attend = _softmax_features if feature_map == "softmax" else _elu_features
    q, k, v = (heads_first(x) for x in (query, key, value))
    return heads_first(attend(q, k, v, key_mask)).astype(value.dtype)


def _softmax_features(q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
    """The keys' softmax is divided after the sum: it saves a [length, head_dim] pass."""
    c = q.shape[-1] ** -0.25
    q = jax.nn.softmax(c * q.astype(jnp.float32), axis=-1)
    k = c * k.astype(jnp.float32)
    if key_mask is not None:
        k = jnp.where(key_mask[..., None], k, MASKED)
    weights = jnp.exp(k - jax.lax.stop_gradient(k.max(axis=-2, keepdims=True)))
    if key_mask is not None:
        weights = weights * key_mask[..., None]
    context = product("...nd,...ne->...de", weights.astype(v.dtype), v)
    context = divide(context, weights.sum(axis=-2)[..., None])
    return product("...nd,...de->...ne", q.astype(v.dtype), context.astype(v.dtype))


def _elu_features(q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
    q, k = (jax.nn.elu(x.astype(jnp.float32)) + 1 for x in (q, k))
    if key_mask is not None:
        k = k * key_mask[..., None]
    context = product("...nd,...ne->...de", k.astype(v.dtype), v)
    numerator = product("...nd,...de->...ne", q.astype(v.dtype), context.astype(v.dtype))
    return divide(numerator, product("...nd,...d->...n", q, k.sum(axis=-2))[..., None])
