"""Performer attention (FAVOR+): positive orthogonal random features of the softmax kernel."""

from typing import Literal

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments, check_stabilizer, widened, without_tokens
from cxv_jax.kernels import divide, favor


def performer_attention(
    query: Float[Array, "*batch q_length heads head_dim"],
    key: Float[Array, "*batch kv_length heads head_dim"],
    value: Float[Array, "*batch kv_length heads value_dim"],
    bias: None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    projection: Float[Array, "features head_dim"],
    stabilizer: Literal["example", "batch"] = "example",
    epsilon: float = 1e-4,
) -> Float[Array, "*batch q_length heads value_dim"]:
    r"""Unbiased softmax attention in linear time: ``out_n = phi(q_n) . S / (phi(q_n) . z)``.

    ``S = sum_m phi(k_m) v_m^T``, ``z = sum_m phi(k_m)``,
    ``phi(x)_j = exp(P_j . y - |y|^2 / 2 - stabilizer) + epsilon``, ``y = head_dim^(-1/4) x``.
    The query's stabilizer is the largest ``P_j . y`` of its token; the key's is the largest over
    all heads, tokens and features of the example. The common factor ``features^(-1/2)`` cancels.
    Both maxima are differentiated through, as in the reference: with epsilon they do not cancel.

    Source: Choromanski et al. 2021 (arXiv 2009.14794), and CPV's code. Difference: the reference
    takes the key's maximum over the whole batch, so a prediction depends on its batch mates;
    ``stabilizer="batch"`` reproduces that.

    Cost: ``O(length * heads * features * head_dim)`` time; the features are recomputed, not stored.

    Args:
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads, head_dim]``.
      value: ``[..., kv_length, heads, value_dim]``.
      bias: not supported, must be None.
      mask: key padding mask ``[..., heads or 1, 1, kv_length]``, True = attend.
      projection: ``[features, head_dim]`` from :func:`random_projection`.
      stabilizer: ``"example"`` or ``"batch"``.
      epsilon: floor of every feature.

    Returns:
      ``[..., q_length, heads, value_dim]`` in the type of ``value``; 0 where all keys are masked.

    Raises:
      ValueError: for what :func:`check_arguments` refuses, or an unknown stabilizer.

    Example:
      >>> import jax, jax.numpy as jnp, cxv_jax.attention
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> projection = cxv_jax.attention.random_projection(jax.random.key(0), 16, 8)
      >>> performer_attention(x, x, x, projection=projection).shape
      (2, 100, 4, 8)
    """
    check_stabilizer(stabilizer)
    if projection.shape[-1] != query.shape[-1] or projection.size == 0:
        raise ValueError(f"projection {projection.shape} does not fit query {query.shape}")
    key_mask = check_arguments(query, key, value, bias, mask)
    if (nothing := without_tokens(query, key, value)) is not None:
        return nothing
    projection = projection.astype(jnp.float32)
    dtype, (query, key, value) = value.dtype, widened(query, key, value)
    tokens, whole_batch = (key, value, projection, key_mask), stabilizer == "batch"
    sums = favor.key_sums(_features, epsilon, _scores, *tokens, whole_batch=whole_batch)  # S, z.
    out = favor.query_products(_features, epsilon, query, sums.astype(value.dtype), projection)
    return divide(*jnp.split(out, [value.shape[-1]], -1), value.dtype).astype(dtype)


def _features(
    x: Array, projection: Array, top: Array | None = None, kept: Array | None = None
) -> Array:
    """``phi(x) - epsilon`` in float32, 0 where a token is not ``kept``; no ``top``: its own."""
    y = _scaled(x)
    scores = y @ projection.T
    top = scores.max(-1, keepdims=True) if top is None else top
    exponent = scores - (0.5 * jnp.sum(y * y, -1, keepdims=True) + top)
    # Not a product afterwards: a masked score may overflow.
    return jnp.exp(exponent if kept is None else jnp.where(kept, exponent, -jnp.inf))


def _scores(x: Array, projection: Array) -> Array:
    """``P_j . y`` of every feature."""
    return _scaled(x) @ projection.T


def _scaled(x: Array) -> Array:
    """``y = head_dim^(-1/4) x`` in float32."""
    return x.shape[-1] ** -0.25 * x.astype(jnp.float32)
