"""FAVOR+'s sums over tokens, whose features (the largest arrays) are never kept.

The features are computed again in the backward pass; on a CPU for a part of the tokens at a time,
so that they stay in cache, and with rows added to the projection, so that loops over features end
with whole vector registers. A GPU wants large products.

What every feature has besides is taken out of the products, ``(f + c) B = f B + c sum_j B_j``: XLA
would write an array of it, as large as the features, for every sum with them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cxv_jax.kernels.dispatch import by_platform
from cxv_jax.kernels.meshes import as_first
from cxv_jax.kernels.product import heads_first, pad, product
from cxv_jax.kernels.recompute import checkpoint

Scores = Callable[[Array, Array], Array]  # x [..., n, dim], projection -> [..., n, features]
# x, projection, the keys' largest score, mask of x [..., n, 1] or None -> [..., n, features]
Features = Callable[..., Array]


def key_sums(
    phi: Features,
    floor: float,
    scores: Scores,
    key: Array,
    value: Array,
    projection: Array,
    key_mask: Array | None,
    *,
    whole_batch: bool,
) -> Array:
    """``sum_m (phi(k_m, top) + floor) [v_m, 1]^T`` in float32: with the values and without, in one.

    ``top = max scores(k)`` over the features, tokens and heads of an example, or of all examples.
    Its gradient touches the one key that has it: the backward pass computes that row only.

    Args:
      phi: features; a function of arrays, without closed-over ones.
      floor: what every feature of a key that counts has besides.
      scores: of which to take the largest; also such a function.
      key: ``[..., length, heads, dim]``.
      value: ``[..., length, heads, value_dim]``.
      projection: ``[features, dim]``.
      key_mask: None or ``[..., heads or 1, length]``, of the keys that count.
      whole_batch: one ``top`` for all examples.

    Returns:
      ``[..., heads, features, value_dim + 1]``.
    """
    find = partial(_winner, scores, () if whole_batch else key.shape[:-3])
    # No gradient: all that is used is an index.
    winner = as_first(find, *jax.lax.stop_gradient((heads_first(key), projection)), key_mask)
    # Around transposing and cutting too, or the parts would be kept besides the whole.
    given = (phi, floor, scores)
    run = checkpoint(partial(_sums, False, *given), cpu=partial(_sums, True, *given))
    return run(key, value, projection, winner, key_mask)


def query_products(
    phi: Features, floor: float, query: Array, context: Array, projection: Array
) -> Array:
    """``(phi(q_n) + floor) context`` in float32.

    Args:
      phi: as in :func:`key_sums`.
      floor: what every feature has besides.
      query: ``[..., length, heads, dim]``.
      context: ``[..., heads, features, width]``.
      projection: ``[features, dim]``.

    Returns:
      ``[..., length, heads, width]``.
    """
    given = (phi, floor)
    run = checkpoint(partial(_products, False, *given), cpu=partial(_products, True, *given))
    return run(query, context, projection)


def _winner(
    scores: Scores, batch: tuple[Any, ...], k: Array, projection: Array, key_mask: Array | None
) -> Array:
    """Which row of the heads' tokens has the largest score, ``[*batch, 1, 1]``."""
    both = dict(cpu=partial(_best, True, scores), default=partial(_best, False, scores))
    best = by_platform(k, projection, **both)
    if key_mask is not None:
        best = jnp.where(key_mask[..., None], best, -jnp.inf)
    return best.reshape(*batch, -1).argmax(-1)[..., None, None]


def _best(in_parts: bool, scores: Scores, k: Array, projection: Array) -> Array:
    """The largest score of each token, ``[..., length, 1]``."""

    def best(k: Array) -> Array:
        return scores(k, projection).max(-1, keepdims=True)

    return _join(jax.lax.map(best, _cut(k))) if in_parts else best(k)


def _sums(
    in_parts: bool,
    phi: Features,
    floor: float,
    scores: Scores,
    key: Array,
    value: Array,
    projection: Array,
    winner: Array,
    key_mask: Array | None,
) -> Array:
    p = _whole_vectors(projection) if in_parts else projection
    k, batch = heads_first(key), winner.shape[:-2]
    row = jnp.take_along_axis(k.reshape(*batch, -1, k.shape[-1]), winner, -2)
    top = scores(row, p).max(-1).reshape(*batch, *(1,) * (k.ndim - len(batch)))

    def add(part: Any) -> Array:
        k, v, kept = part
        v = jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), v.dtype)], -1)
        sums = product("...nj,...ne->...je", phi(k, p, top, kept).astype(v.dtype), v)
        counted = v if kept is None else jnp.where(kept, v, 0)
        return sums + floor * counted.sum(-2, keepdims=True, dtype=jnp.float32)

    tokens = (k, heads_first(value), None if key_mask is None else key_mask[..., None])
    if not in_parts:
        return add(tokens)
    shape = (*k.shape[:-2], p.shape[0], value.shape[-1] + 1)
    start = jnp.zeros_like(k, jnp.float32, shape)  # Like k on a mesh too, as a loop needs it.
    step = _again(lambda total, part: (total + add(part), None))
    sums, _ = jax.lax.scan(step, start, jax.tree.map(_cut, tokens))
    return sums[..., : projection.shape[0], :]


def _products(
    in_parts: bool, phi: Features, floor: float, query: Array, context: Array, projection: Array
) -> Array:
    ground = floor * context.sum(-2, keepdims=True, dtype=jnp.float32)
    q, p = heads_first(query), _whole_vectors(projection) if in_parts else projection
    context = pad(context, -2, 0, p.shape[0] - context.shape[-2])

    def read(q: Array) -> Array:
        return product("...nj,...je->...ne", phi(q, p).astype(context.dtype), context) + ground

    return heads_first(_join(jax.lax.map(_again(read), _cut(q))) if in_parts else read(q))


_again = partial(jax.checkpoint, prevent_cse=False)  # Within a loop.


def _whole_vectors(projection: Array, lanes: int = 16) -> Array:
    """Repeat the first row until the rows fill whole registers; it changes no maximum."""
    rows = jnp.broadcast_to(projection[:1], (-projection.shape[0] % lanes, projection.shape[1]))
    return jnp.concatenate([projection, rows])


def _cut(x: Array) -> Array:
    """``[..., length, dim]`` to ``[parts, ..., length / parts, dim]``."""
    length, n = x.shape[-2], 1
    if isinstance(length, int) and length >= 512:  # Not a symbol of jax.export.
        n = next(n for n in range(16, 0, -1) if length % n == 0)
    return jnp.moveaxis(x.reshape(*x.shape[:-2], n, -1, x.shape[-1]), -3, 0)


def _join(x: Array) -> Array:
    x = jnp.moveaxis(x, 0, -3)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])
