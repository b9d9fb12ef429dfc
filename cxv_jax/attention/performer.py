"""Performer attention (FAVOR+): positive orthogonal random features of the softmax kernel."""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key, UInt32

from cxv_jax.attention.arguments import check_arguments, divide, heads_first
from cxv_jax.kernels import checkpoint


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
    features, p = projection.shape[0], _whole_vectors(projection.astype(jnp.float32))
    winner = _largest_key(jax.lax.stop_gradient(key), p, key_mask, stabilizer)
    # Around transposing and cutting too, or the parts would be kept besides the whole.
    context = checkpoint(partial(_context, epsilon))(key, value, p, winner, key_mask)
    real = (jnp.arange(p.shape[0]) < features).reshape((1,) * (query.ndim - 2) + (-1, 1))
    context = jnp.where(real, context, 0).astype(value.dtype)
    out = checkpoint(partial(_read, epsilon))(query, context, p)
    return divide(*jnp.split(out, [value.shape[-1]], -1), value.dtype)


def _whole_vectors(projection: Array, lanes: int = 16) -> Array:
    """Repeat the first row until the rows fill whole vector registers.

    The loops over 110 features would end in 14 scalar steps. A repeated row changes no maximum;
    its rows of the context are set to zero.
    """
    extra = -projection.shape[0] % lanes
    rows = jnp.broadcast_to(projection[:1], (extra, projection.shape[1]))
    return jnp.concatenate([projection, rows])


def _chunks(length: int) -> int:
    """Into how many parts to cut the tokens, so that the features of one part stay in cache.

    On a CPU this saves time and temporaries; a GPU wants large products.
    """
    if jax.default_backend() != "cpu" or length < 512:
        return 1
    return next(n for n in range(16, 0, -1) if length % n == 0)


def _cut(x: Array) -> Array:
    """``[..., length, dim]`` to ``[chunks, ..., length / chunks, dim]``."""
    n = _chunks(x.shape[-2])
    return jnp.moveaxis(x.reshape(*x.shape[:-2], n, -1, x.shape[-1]), -3, 0)


def _join(x: Array) -> Array:
    x = jnp.moveaxis(x, 0, -3)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _scores(x: Array, projection: Array) -> tuple[Array, Array]:
    """``P_j . y`` as [..., features] and ``|y|^2 / 2`` as [..., 1], both float32."""
    y = x.shape[-1] ** -0.25 * x.astype(jnp.float32)
    return y @ projection.T, 0.5 * jnp.sum(y * y, -1, keepdims=True)


def _largest_key(key: Array, projection: Array, key_mask: Array | None, stabilizer: str) -> Array:
    """Index of the key with the largest score, [..., 1, 1] or (whole batch) [1, 1]."""

    def tops(part: Array) -> Array:
        return _scores(part, projection)[0].max(-1, keepdims=True)

    k = heads_first(key)
    top = _join(jax.lax.map(tops, _cut(k)))
    if key_mask is not None:
        top = jnp.where(key_mask[..., None], top, -jnp.inf)
    batch = () if stabilizer == "batch" else k.shape[:-3]
    return top.reshape(*batch, -1).argmax(-1)[..., None, None]


def _largest_score(k: Array, projection: Array, winner: Array) -> Array:
    """The keys' stabilizer, with the axes of ``k``: the backward pass touches one row only."""
    batch = winner.shape[:-2]
    row = jnp.take_along_axis(k.reshape(*batch, -1, k.shape[-1]), winner, -2)
    top = _scores(row, projection)[0].max(-1)
    return top.reshape(*batch, *(1,) * (k.ndim - len(batch)))


def _context(
    epsilon: float,
    key: Array,
    value: Array,
    projection: Array,
    winner: Array,
    key_mask: Array | None,
) -> Array:
    """``sum_m phi(k_m) [v_m, 1]^T`` in float32: [..., features, value_dim + 1]."""
    k, v = heads_first(key), heads_first(value)
    top = _largest_score(k, projection, winner)

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        k, v, *kept = part
        scores, half_norm = _scores(k, projection)
        exponent = scores - (half_norm + top)
        if kept:  # Not a product afterwards: a masked score may overflow.
            exponent = jnp.where(kept[0], exponent, -jnp.inf)
        features = jnp.exp(exponent) + (epsilon * kept[0] if kept else epsilon)
        # One more column: the sums with the values and without, in one product.
        v = jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), v.dtype)], -1)
        return total + _product("...nj,...ne->...je", features.astype(v.dtype), v), None

    mask = () if key_mask is None else (_cut(key_mask[..., None]),)
    start = jnp.zeros((*k.shape[:-2], projection.shape[0], v.shape[-1] + 1), jnp.float32)
    return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), start, (_cut(k), _cut(v), *mask))[0]


def _read(epsilon: float, query: Array, context: Array, projection: Array) -> Array:
    """``phi(q_n) . context`` in float32: [..., length, heads, value_dim + 1]."""

    def read(q: Array) -> Array:
        scores, half_norm = _scores(q, projection)
        features = jnp.exp(scores - (half_norm + scores.max(-1, keepdims=True))) + epsilon
        return _product("...nj,...je->...ne", features.astype(context.dtype), context)

    parts = jax.lax.map(jax.checkpoint(read, prevent_cse=False), _cut(heads_first(query)))
    return heads_first(_join(parts))


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)
