r"""Linear Transformer attention: kernel feature maps instead of the softmax of a score matrix.

``rule="softmax"`` (CLTV's, Shen et al. 2018, arXiv 1812.01243):
``out_n = softmax_d(c q_n) . sum_m softmax_m(c k_m) v_m^T`` with ``c = head_dim^(-1/4)``; the
keys' softmax runs over the tokens, so the weights of every feature sum to 1.

The other rules have the features ``phi = elu + 1``, and ``s = head_dim^(-1/2)``.

``rule="elu"`` (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 5 and 7):
``out_n = phi(q_n) . (sum_m phi(k_m) v_m^T) / (phi(q_n) . sum_m phi(k_m))``. Ours has no
epsilon in the denominator, which is positive by itself.

``rule="mala"`` (Fan et al. 2025, arXiv 2507.00698): ``elu``'s output plus
``s phi(q_n) . cov(phi(k), v)``, with the covariance over the tokens. It equals the paper's
``s/N phi(q_n) . (sum_m phi(k_m) v_m^T) (1 + 1/z_n) - z_n mean(v)`` with
``z_n = s phi(q_n) . mean(phi(k))``, without a difference of large numbers. The weights sum to
1; they may be negative, and sharpen as the query grows.

``rule="rala"`` (Fan et al. 2024, arXiv 2411.07635): ``elu`` with the features of key ``m``
multiplied by ``N softmax_m(s mean_n(phi(q_n)) . phi(k_m))``, which raises the rank of the sum.
The mean is of the queries where ``mask`` has the keys, so queries and keys are one sequence.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments, widened, without_tokens
from cxv_jax.kernels import MASKED, divide, heads_first, product
from cxv_jax.kernels.meshes import as_first

Rule = Literal["softmax", "elu", "mala", "rala"]


def linear_attention(
    query: Float[Array, "*batch q_length heads head_dim"],
    key: Float[Array, "*batch kv_length heads head_dim"],
    value: Float[Array, "*batch kv_length heads value_dim"],
    bias: None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    rule: Rule = "softmax",
) -> Float[Array, "*batch q_length heads value_dim"]:
    r"""Attention as two small products: ``out = phi_q(q) (phi_k(k)^T v)``, normalised.

    The rules and their sources stand at the top of this file.

    Cost: ``O(length * heads * head_dim^2)`` time, ``O(length * heads * head_dim)`` memory.
    Products accumulate in float32 whatever the input type.

    Args:
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads, head_dim]``.
      value: ``[..., kv_length, heads, value_dim]``.
      bias: not supported, must be None.
      mask: key padding mask ``[..., heads or 1, 1, kv_length]``, True = attend.
      rule: ``"softmax"``, ``"elu"``, ``"mala"`` or ``"rala"``.

    Returns:
      ``[..., q_length, heads, value_dim]`` in the type of ``value``; 0 where all keys are masked.

    Raises:
      ValueError: for a bias, a query-dependent mask, an unknown rule, integers, ill-fitting shapes,
        or ``rala`` with a mask and unlike lengths.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> linear_attention(x, x, x, rule="mala").shape
      (2, 100, 4, 8)
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    key_mask = check_arguments(query, key, value, bias, mask)
    if (nothing := without_tokens(query, key, value)) is not None:
        return nothing
    if rule == "rala" and mask is not None and query.shape[-3] != key.shape[-3]:
        raise ValueError(
            "rule 'rala' averages the queries that the mask keeps: with a mask, queries and keys "
            f"must be one sequence, got lengths {query.shape[-3]} and {key.shape[-3]}"
        )
    q, k, v = (heads_first(x) for x in widened(query, key, value))
    attend = _softmax_features if rule == "softmax" else partial(_elu_features, rule)
    return heads_first(as_first(attend, q, k, v, key_mask)).astype(value.dtype)


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


def _elu_features(rule: Rule, q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
    """Sums over the tokens are means here: float16 holds no sum of 16,384 of them."""
    q, k = (jax.nn.elu(x.astype(jnp.float32)) + 1 for x in (q, k))
    kept = jnp.ones(k.shape[:-1]) if key_mask is None else key_mask.astype(jnp.float32)
    kept = jnp.broadcast_to(kept, k.shape[:-1])
    scale = q.shape[-1] ** -0.5
    # [..., kv_length]: sums to 1 over the keys that are not masked.
    share = kept / jnp.maximum(kept.sum(-1, keepdims=True), 1)
    if rule == "rala":
        weight = jnp.full(q.shape[:-1], 1 / q.shape[-2]) if key_mask is None else share
        mean_query = jnp.einsum("...nd,...n->...d", q, weight)
        score = scale * jnp.einsum("...d,...nd->...n", mean_query, k)
        score = jnp.where(kept > 0, score, MASKED)
        powers = kept * jnp.exp(score - jax.lax.stop_gradient(score.max(-1, keepdims=True)))
        share = divide(powers, powers.sum(-1, keepdims=True))
    context = product("...nd,...ne->...de", (k * share[..., None]).astype(v.dtype), v)
    mean_key = (k * share[..., None]).sum(-2)
    numerator = product("...nd,...de->...ne", q.astype(v.dtype), context.astype(v.dtype))
    out = divide(numerator, product("...nd,...d->...n", q, mean_key)[..., None])
    if rule != "mala":
        return out
    mean_value = product("...n,...ne->...e", share.astype(v.dtype), v)
    covariance = context - mean_key[..., :, None] * mean_value[..., None, :]
    return out + scale * product(
        "...nd,...de->...ne", q.astype(v.dtype), covariance.astype(v.dtype)
    )
