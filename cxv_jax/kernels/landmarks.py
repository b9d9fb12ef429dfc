"""Means over runs of consecutive tokens, where a mask or the length leaves some runs short."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from cxv_jax.kernels.product import pad


def pad_front(
    arrays: list[Array], landmarks: int, key_mask: Array | None
) -> tuple[list[Array], Array | None]:
    """Zero tokens in front until the landmarks divide the length; the mask hides them.

    Args:
      arrays: each ``[..., heads, length, dim]``.
      landmarks: how many runs of one length there shall be.
      key_mask: None or ``[..., heads or 1, length]``.
    """
    length = arrays[0].shape[-2]
    # JAX sees that this makes a multiple of a symbol of jax.export too; not so -length % landmarks.
    extra = -(-length // landmarks) * landmarks - length
    if isinstance(extra, int) and not extra:
        return arrays, key_mask
    if key_mask is None:
        key_mask = jnp.ones((*(1,) * (arrays[0].ndim - 2), length), bool)
    return [pad(x, -2, extra, 0) for x in arrays], pad(key_mask, -1, extra, 0)


def run_means(
    landmarks: int, key_mask: Array | None
) -> tuple[Callable[[Array], Array], Array | None]:
    """Mean over runs of tokens (of those the mask keeps); which runs have any token.

    Args:
      landmarks: number of runs; divides the length.
      key_mask: None or ``[..., heads or 1, length]``.

    Returns:
      ``mean``, ``[..., length, dim]`` to ``[..., landmarks, dim]``, and None without a mask, else
      ``[..., heads or 1, landmarks]``.
    """

    def groups(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], landmarks, -1, x.shape[-1])

    if key_mask is None:
        return lambda x: groups(x).mean(-2), None
    kept = key_mask[..., None]
    count = groups(kept).sum(-2)
    divisor = jnp.maximum(count, 1)
    return lambda x: groups(x * kept).sum(-2) / divisor.astype(x.dtype), (count > 0)[..., 0]
