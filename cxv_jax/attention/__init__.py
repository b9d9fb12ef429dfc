"""Attention in linear time: pure functions of arrays, no Flax.

All share the call shape of ``jax.nn.dot_product_attention``: ``(query, key, value, bias=None,
mask=None, *, ...)`` on ``[..., length, heads, head_dim]``. They fit
``flax.linen.MultiHeadDotProductAttention(attention_fn=...)``; Flax then passes on only the keyword
arguments a function names, so **attention dropout is silently ignored there**.
"""

from cxv_jax.attention.linear import linear_attention
from cxv_jax.attention.linformer import linformer_attention
from cxv_jax.attention.nystrom import iterative_pinv, nystrom_attention, token_convolution
from cxv_jax.attention.performer import (
    default_num_features,
    performer_attention,
    random_projection,
)
from cxv_jax.attention.rotary import rotate

__all__ = [
    "default_num_features",
    "iterative_pinv",
    "linear_attention",
    "linformer_attention",
    "nystrom_attention",
    "performer_attention",
    "random_projection",
    "rotate",
    "token_convolution",
]
