"""Convolutional X-formers for Vision in JAX: attention functions, models, two-phase optimizer."""

from cxv_jax import optimizer
from cxv_jax.attention import (
    linear_attention,
    nystrom_attention,
    performer_attention,
    random_projection,
)
from cxv_jax.models import create
from cxv_jax.version import __version__

__all__ = [
    "__version__",
    "create",
    "linear_attention",
    "nystrom_attention",
    "optimizer",
    "performer_attention",
    "random_projection",
]
