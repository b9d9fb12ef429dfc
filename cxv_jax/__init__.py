"""Convolutional X-formers for Vision in JAX: attention functions, models, two-phase optimizer.

Names are imported when they are first used: commands print their help before JAX is there.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cxv_jax.version import __version__

if TYPE_CHECKING:
    from cxv_jax import optimizer
    from cxv_jax.attention import (
        linear_attention,
        nystrom_attention,
        performer_attention,
        random_projection,
    )
    from cxv_jax.models import create

__all__ = [
    "__version__",
    "create",
    "linear_attention",
    "nystrom_attention",
    "optimizer",
    "performer_attention",
    "random_projection",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "optimizer":
        return importlib.import_module("cxv_jax.optimizer")
    home = "cxv_jax.models" if name == "create" else "cxv_jax.attention"
    return getattr(importlib.import_module(home), name)
