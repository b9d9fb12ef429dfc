"""Convolutional X-formers for Vision in JAX: attention functions, models, two-phase optimizer."""

from cxv_jax.version import __version__

__all__ = ["__version__"]
