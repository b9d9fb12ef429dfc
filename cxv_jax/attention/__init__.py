"""Attention in linear time: pure functions of arrays, no Flax.

All share the call shape of ``jax.nn.dot_product_attention``: ``(query, key, value, bias=None,
mask=None, *, ...)`` on ``[..., length, heads, head_dim]``. :func:`for_flax` makes them fit Flax's
multi-head attention, Linen's and NNX's. Without it Linen passes on only the keyword arguments that
a function names, so **attention dropout is silently ignored there**.
"""

from cxv_jax.attention.for_flax import for_flax
from cxv_jax.attention.linear import linear_attention
from cxv_jax.attention.linformer import linformer_attention
from cxv_jax.attention.nystrom import nystrom_attention
from cxv_jax.attention.performer import performer_attention
from cxv_jax.attention.pinv import iterative_pinv
from cxv_jax.attention.projection import default_num_features, random_projection
from cxv_jax.attention.rotary import rotate
from cxv_jax.attention.token_weights import token_weights
from cxv_jax.kernels import token_convolution

__all__ = [
    "default_num_features",
    "for_flax",
    "iterative_pinv",
    "linear_attention",
    "linformer_attention",
    "nystrom_attention",
    "performer_attention",
    "random_projection",
    "rotate",
    "token_convolution",
    "token_weights",
]
