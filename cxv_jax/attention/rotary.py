"""Rotary position embedding: positions as angles between query and key."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from cxv_jax.attention.arguments import check_floats


def rotate(
    x: Float[Array, "*batch length heads head_dim"],
) -> Float[Array, "*batch length heads head_dim"]:
    """Turn each pair of features of token ``n`` by ``n * 10000^(-2 i / head_dim)`` radians.

    Pairs are neighbours: ``(x_2i, x_2i+1)``, as one complex number, is multiplied by
    ``exp(1j * angle)``. The product of a rotated query and a rotated key then depends on the
    distance of their tokens, not on the positions themselves.

    Source: Su et al. 2021 (arXiv 2104.09864), eq. 15 and 34. The angles are float32, as in the
    reference. Cost: ``O(length * heads * head_dim)``.

    Args:
      x: ``[..., length, heads, head_dim]``, an even ``head_dim``.

    Returns:
      The same shape and type.

    Raises:
      ValueError: for an odd ``head_dim`` or integers.

    Example:
      >>> import jax.numpy as jnp
      >>> turned = rotate(jnp.ones((2, 1, 2)))[1, 0]  # cos 1 - sin 1, cos 1 + sin 1
      >>> f"{turned[0]:.2f} {turned[1]:.2f}"
      '-0.30 1.38'
    """
    if x.shape[-1] % 2:
        raise ValueError(f"rotary positions need an even head_dim, got {x.shape[-1]}")
    check_floats(x=x)
    axes = tuple(range(x.ndim - 3))
    cos, sin = (jnp.expand_dims(t, axes) for t in _table(x.shape[-3], x.shape[-1]))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _table(length: Any, head_dim: int) -> tuple[Any, Any]:
    """Cosines and sines, ``[length, 1, head_dim / 2]``."""
    numpy: Any = np if isinstance(length, int) else jnp  # jnp: of a symbol of jax.export.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1 / np.float32(10000) ** exponents
    angles = numpy.arange(length, dtype=np.float32)[:, None] * frequencies[None]
    angles = angles[:, None]
    return numpy.cos(angles), numpy.sin(angles)
