"""Performer's random projection: orthogonal rows that are Gaussian one by one."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, UInt32


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
    2.4). Difference: CPV's code keeps LAPACK's signs, which makes the kernel's estimate biased.

    Args:
      rng: random key.
      num_features: rows; the last block is cut.
      head_dim: columns.

    Returns:
      float32 ``[num_features, head_dim]``.

    Raises:
      ValueError: for fewer than 1 row or column.

    Example:
      >>> import jax
      >>> random_projection(jax.random.key(0), num_features=16, head_dim=8).shape
      (16, 8)
    """
    if num_features < 1 or head_dim < 1:
        raise ValueError(
            f"num_features and head_dim must be at least 1, got {num_features} and {head_dim}"
        )
    block_rng, norm_rng = jax.random.split(rng)
    blocks = -(-num_features // head_dim)
    gaussian = jax.random.normal(block_rng, (blocks, head_dim, head_dim))
    q, r = jnp.linalg.qr(gaussian)
    # LAPACK fixes the columns' signs, which would leave each row on one half of the sphere.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None, :]
    rows = jnp.swapaxes(q, -1, -2).reshape(blocks * head_dim, head_dim)[:num_features]
    norms = jnp.linalg.norm(jax.random.normal(norm_rng, rows.shape), axis=-1, keepdims=True)
    return rows * norms
