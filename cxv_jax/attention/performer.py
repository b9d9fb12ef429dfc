"""Performer attention (FAVOR+): positive orthogonal random features of the softmax kernel."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key, UInt32

from cxv_jax.attention.arguments import check_arguments, divide, heads_first


def default_num_features(head_dim: int) -> int:
    """``int(head_dim ln head_dim)``, at least 1: the number of features the paper's code takes."""
    return max(1, int(head_dim * math.log(head_dim)))


def random_projection(
    rng: Key[Array, ""] | UInt32[Array, "2"], num_features: int, head_dim: int
) -> Float[Array, "num_features head_dim"]:
    """Rows that are orthogonal in blocks of ``head_dim`` and as long as Gaussian vectors.

    Each block is ``Q^T`` of a Gaussian ``head_dim x head_dim`` matrix's QR factorisation with a
    positive diagonal of ``R``; row ``j`` is scaled by the norm of an independent ``N(0, I)``
    vector, so that it is Gaussian by itself (Choromanski et al. 2021, arXiv 2009.14794, section
    3.2). Difference: CPV's code keeps LAPACK's signs, which makes the kernel's estimate biased.

    Args:
      rng: random key.
      num_features: rows; the last block is cut.
      head_dim: columns.

    Returns:
      float32 ``[num_features, head_dim]``.
    """
    block_rng, norm_rng = jax.random.split(rng)
    blocks = -(-num_features // head_dim)
    gaussian = jax.random.normal(block_rng, (blocks, head_dim, head_dim))
    q, r = jnp.linalg.qr(gaussian)
    # LAPACK fixes the columns' signs, which would leave each row on one half of the sphere.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    rows = jnp.swapaxes(q, -1, -2).reshape(blocks * head_dim, head_dim)[:num_features]
    norms = jnp.linalg.norm(jax.random.normal(norm_rng, rows.shape), axis=-1, keepdims=True)
    return rows * norms


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

    Cost: ``O(length * heads * features * head_dim)`` time; the features (the largest arrays) are
    recomputed in the backward pass, never stored.

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
      ValueError: for a bias, a query-dependent mask, an unknown stabilizer or ill-fitting shapes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> performer_attention(x, x, x, projection=random_projection(jax.random.key(0), 16, 8)).shape
      (2, 100, 4, 8)
    """
    if stabilizer not in ("example", "batch"):
        raise ValueError(f"stabilizer must be 'example' or 'batch', got {stabilizer!r}")
    if projection.shape[-1] != query.shape[-1]:
        raise ValueError(f"projection {projection.shape} does not fit query {query.shape}")
    key_mask = check_arguments(query, key, value, bias, mask)
    q, k, v = (heads_first(x) for x in (query, key, value))
    ones = jnp.ones((*v.shape[:-1], 1), v.dtype)  # One more column: S and z in one product.
    context = _context(k, jnp.concatenate([v, ones], -1), projection, key_mask, stabilizer, epsilon)
    out = _read(q, context, projection, epsilon)
    return heads_first(divide(out[..., :-1], out[..., -1:])).astype(value.dtype)


def _scores(x: Array, projection: Array) -> tuple[Array, Array]:
    """``P_j . y`` as [..., features] and ``|y|^2 / 2`` as [..., 1], both float32."""
    y = x.shape[-1] ** -0.25 * x.astype(jnp.float32)
    p = projection.astype(jnp.float32)
    return y @ p.T, 0.5 * jnp.sum(y * y, -1, keepdims=True)


def _context_of_keys(
    k: Array, v: Array, projection: Array, key_mask: Array | None, stabilizer: str, epsilon: float
) -> Array:
    scores, half_norm = _scores(k, projection)
    kept = scores if key_mask is None else jnp.where(key_mask[..., None], scores, -jnp.inf)
    axes = tuple(range(scores.ndim)) if stabilizer == "batch" else (-3, -2, -1)
    top = kept.max(axis=axes, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)  # Every key masked.
    features = jnp.exp(scores - half_norm - top) + epsilon
    if key_mask is not None:
        # Not a product: a masked score may lie above the maximum and overflow.
        features = jnp.where(key_mask[..., None], features, 0)
    return jnp.einsum(
        "...nj,...ne->...je", features.astype(v.dtype), v, preferred_element_type=jnp.float32
    )


def _read_context(q: Array, context: Array, projection: Array, epsilon: float) -> Array:
    scores, half_norm = _scores(q, projection)
    features = jnp.exp(scores - half_norm - scores.max(-1, keepdims=True)) + epsilon
    return jnp.einsum(
        "...nj,...je->...ne",
        features.astype(q.dtype),
        context.astype(q.dtype),
        preferred_element_type=jnp.float32,
    )


_context = jax.checkpoint(_context_of_keys, static_argnums=(4, 5))
_read = jax.checkpoint(_read_context, static_argnums=(3,))
