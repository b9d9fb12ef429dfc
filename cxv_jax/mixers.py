"""Modules that move information between tokens: attention functions with their parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax import attention
from cxv_jax.errors import InputError
from cxv_jax.layers import Conv, Dense, DepthwiseConv, Dropout, bias_init

AttentionFn = Callable[..., Array]
Attend = AttentionFn | Callable[..., nn.Module]


def owned(attend: Attend, name: str) -> AttentionFn:
    """An attention function as it is; of a module's class (or a ``partial`` of it) a module.

    The module belongs to the one whose compact call is running, by this name: so a caller hands on
    how to make a part, and nobody has to say who its parent is.
    """
    made: Any = attend
    of = made.func if isinstance(made, partial) else made
    return made(name=name) if isinstance(of, type) else made


class Performer(nn.Module):
    """:func:`attention.performer_attention` with its projection kept in ``constants``."""

    num_features: int = 0  # 0: int(head_dim ln head_dim).
    stabilizer: Literal["example", "batch"] = "example"

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Attend on ``[..., length, heads, head_dim]``."""
        head_dim = query.shape[-1]
        features = self.num_features or attention.default_num_features(head_dim)
        projection = self.variable(
            "constants",
            "projection",
            lambda: attention.random_projection(self.make_rng("params"), features, head_dim),
        )
        return attention.performer_attention(
            query, key, value, projection=projection.value, stabilizer=self.stabilizer
        )


class Nystrom(nn.Module):
    """:func:`attention.nystrom_attention` plus a depthwise convolution of the values."""

    num_landmarks: int = 64
    pinv_iterations: int = 6
    residual_kernel: int = 33
    stabilizer: Literal["example", "batch"] = "example"

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Attend on ``[..., length, heads, head_dim]``."""
        out = attention.nystrom_attention(
            query,
            key,
            value,
            num_landmarks=self.num_landmarks,
            pinv_iterations=self.pinv_iterations,
            stabilizer=self.stabilizer,
        )
        # variance_scaling would count the heads into the fan-in: each head has its own kernel.
        taps, bound = self.residual_kernel, bias_init(self.residual_kernel)
        kernel = self.param("residual", bound, (taps, value.shape[-2]))
        return out + attention.token_convolution(value, kernel)


class MultiHeadAttention(nn.Module):
    """Project to query, key and value, attend, join the heads, project back.

    ``out = concat_h(attend(q_h, k_h, v_h)) W_out + b_out``. Works on tokens ``[batch, length,
    channels]`` and on maps ``[batch, height, width, channels]`` (tokens in raster order). The inner
    width ``num_heads * head_dim`` does not depend on the channels. Query, key and value come from
    one fused product ``qkv``, ordered (query, key, value), each head-major.

    With ``local`` each head's output gets ``depthwise_3x3(v)`` added, so that a linear attention
    sees the neighbourhood too; with ``gate`` the joined heads are multiplied by ``silu(W_g x)``
    before ``W_out``, which raises the rank of what a linear attention can say (both as in Han et
    al. 2024, arXiv 2405.16605). Both work for any ``attend``.

    Where the collection ``attention`` is mutable, it gets :func:`attention.token_weights`.

    Attributes:
      attend: a function ``(query, key, value) -> out`` on ``[batch, length, heads, head_dim]``,
        or what makes a Flax module that does it, see :func:`owned`.
      kernel_size: 1 for a dense projection, larger for a convolution (maps only).
    """

    num_heads: int
    head_dim: int
    attend: Attend
    kernel_size: int = 1
    qkv_bias: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32
    init_std: float | None = None  # As in Dense.
    local: bool = False  # Maps only.
    gate: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *length channels"], *, train: bool
    ) -> Float[Array, "batch *length channels"]:
        """Apply to tokens or a map."""
        inner, lead = self.num_heads * self.head_dim, x.shape[:-1]
        qkv = self._projection(3 * inner, self.qkv_bias, "qkv")(x)
        tokens, heads = (lead[0], -1, inner), (lead[0], -1, self.num_heads, self.head_dim)
        # split, not indexing: its gradient is one concatenation, not three padded sums; and of two
        # dimensions, as Dense: the concatenation then needs no other layout.
        parts = jnp.split(qkv.reshape(-1, 3 * inner), 3, axis=-1)
        attend = owned(self.attend, "attend")
        # One axis at a time: more at once, and JAX asks for the shardings on an Explicit mesh.
        query, key, value = (part.reshape(tokens).reshape(heads) for part in parts)
        out = attend(query, key, value).reshape(tokens).reshape(*lead, inner)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "token_weights", _token_weights(attend, query, key))
        if self.local:
            out += DepthwiseConv(3, dtype=self.dtype, name="local")(parts[2].reshape(out.shape))
        if self.gate:
            out *= nn.silu(self._projection(inner, True, "gate")(x))
        out = self._projection(x.shape[-1], True, "out")(out)
        return Dropout(self.dropout)(out, train=train)

    def _projection(self, features: int, use_bias: bool, name: str) -> nn.Module:
        if self.kernel_size == 1:
            return Dense(features, use_bias, self.dtype, self.init_std, name=name)
        return Conv(features, self.kernel_size, use_bias=use_bias, dtype=self.dtype, name=name)


def _token_weights(attend: AttentionFn, query: Array, key: Array) -> Array:
    """:func:`attention.token_weights`, also of a module, whose variables Flax has to hand on."""
    if not isinstance(attend, nn.Module):
        return attention.token_weights(attend, query, key)
    variables = attend.variables

    def apart(query: Array, key: Array, value: Array) -> Array:
        out: Any = attend.clone(parent=None, name=None).apply(variables, query, key, value)
        return out

    return attention.token_weights(apart, query, key)


class Softmax(nn.Module):
    """``softmax(scale q k^T) v``, with dropout of the weights.

    Cost: quadratic in length. A caller that does not train leaves ``dropout`` at 0.
    """

    scale: float | None = None  # None: head_dim^(-1/2).
    dropout: float = 0.0

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Attend on ``[batch, length, heads, head_dim]``."""
        if self.dropout == 0:
            return jax.nn.dot_product_attention(query, key, value, scale=self.scale)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scale * scores, axis=-1).astype(value.dtype)
        weights = Dropout(self.dropout)(weights, train=True)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class InSequence(nn.Module):
    """Zero tokens in front (unmasked, as ViN's reference has them), rotary positions, ``attend``.

    The reference pads before its projections; they have no bias, so zeros come out as zeros.
    """

    attend: Attend
    rope: bool = False
    multiple: int = 1

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Attend on ``[batch, length, heads, head_dim]``."""
        length, m = query.shape[1], self.multiple
        extra = -(-length // m) * m - length  # As in kernels.landmarks.
        padding = ((0, 0), (extra, 0), (0, 0), (0, 0))
        query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
        if self.rope:
            query, key = _rotate(query), _rotate(key)
        return owned(self.attend, "attend")(query, key, value)[:, extra:]


class LinformerAttention(nn.Module):
    """Multi-head :func:`attention.linformer_attention` where the values are the keys.

    Rotary positions turn the keys, never the values. Tied to one length by ``projection``.
    """

    num_heads: int
    head_dim: int
    num_projected: int = 64
    one_kv_head: bool = False
    rope: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"], *, train: bool
    ) -> Float[Array, "batch tokens channels"]:
        """Apply to ``[batch, tokens, channels]``."""
        query, key = (
            Dense(heads * self.head_dim, use_bias=False, dtype=self.dtype, name=name)(x).reshape(
                *x.shape[:2], heads, self.head_dim
            )
            for name, heads in [
                ("query", self.num_heads),
                ("key", 1 if self.one_kv_head else self.num_heads),
            ]
        )
        value = key
        if self.rope:
            query, key = _rotate(query), _rotate(key)
        bound = bias_init(self.num_projected)
        projection = self.param("projection", bound, (x.shape[1], self.num_projected))
        out = attention.linformer_attention(query, key, value, projection=projection)
        return Dense(x.shape[-1], dtype=self.dtype, name="out")(out.reshape(*x.shape[:2], -1))


def _rotate(x: Array) -> Array:
    if x.shape[-1] % 2:
        raise InputError(f"rotary positions turn pairs: head_dim must be even, got {x.shape[-1]}")
    return attention.rotate(x)
