"""Convolutional vision transformer (CvT), in the two forms in use: stages of shrinking maps."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.layers import BatchNorm, Conv, Dense, DepthwiseConv, LayerNorm, gelu
from cxv_jax.models.embed import as_features, check_images
from cxv_jax.models.trunk import Block, prepended


class CvT(nn.Module):
    """Convolutional vision transformer (Wu et al. 2021, arXiv 2103.15808).

    Each stage: ``x = norm(conv(x))``, then pre-norm blocks of :class:`ConvAttention` and an MLP.
    ``logits = mean_pixels(x) W + b``; with ``original`` a class token joins in the last stage and
    ``logits = norm(x_cls) W + b``. No positions: runs at any height and width. Cost: quadratic
    in pixels.

    Source: lucidrains/vit-pytorch, ``vit_pytorch/cvt.py``, which CXV's authors compare with, and
    (``original``) microsoft/CvT, ``lib/models/cls_cvt.py`` (docs/sources.md). The authors' 2021
    copy of the first divides by ``sqrt(var) + 1e-5``; this is today's ``sqrt(var + 1e-5)``.

    Attributes:
      original: class token, QuickGELU, own convolutions for key and value, biases, attention
        scaled by the full ``channels^(-1/2)``, normal initialisation: as CvT's authors have it.
      num_classes: width of the head.
      embed_dims: channels of each stage; all sequences here have one entry a stage.
      embed_kernels: kernels of the convolutions between the stages.
      embed_strides: their strides.
      embed_paddings: their paddings; empty: ``kernel // 2``.
      depths: blocks.
      num_heads: attention heads.
      head_dim: width of a head in every stage; 0: the heads share the channels.
      mlp_ratios: hidden width of the MLP over the channels.
      proj_kernels: kernels of the depthwise convolutions in attention.
      kv_strides: their strides for key and value.
      drop_path: rate of the last block of the last stage, growing from 0 in its first.
      dtype: type of products and convolutions; statistics, softmax and logits stay float32.
    """

    original: bool = False
    num_classes: int = 10
    embed_dims: Sequence[int] = (128, 128, 128)
    embed_kernels: Sequence[int] = (3, 3, 3)
    embed_strides: Sequence[int] = (1, 1, 1)
    embed_paddings: Sequence[int] = ()
    depths: Sequence[int] = (1, 1, 2)
    num_heads: Sequence[int] = (4, 4, 4)
    head_dim: int = 64
    mlp_ratios: Sequence[float] = (2, 2, 2)
    proj_kernels: Sequence[int] = (3, 3, 3)
    kv_strides: Sequence[int] = (1, 1, 1)
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for empty images or sequences of different lengths.
        """
        check_images(images)
        self._check_stages()
        x = images.astype(self.dtype)
        last = len(self.embed_dims) - 1
        for stage, depth in enumerate(self.depths):
            x = self._embed(stage, x)
            batch, height, width, channels = x.shape
            tokens = x.reshape(batch, -1, channels)
            if self.original and stage == last:
                tokens = self._with_class_token(tokens)
            for i, rate in enumerate(np.linspace(0, self.drop_path, depth)):
                drop_path = float(rate) if stage == last else 0.0
                block = self._block(stage, i, (height, width), drop_path)
                tokens = block(tokens, train=train)
            x = tokens[:, -height * width :].reshape(batch, height, width, channels)
        x = as_features(self, x).astype(jnp.float32)
        if self.original:
            pooled = LayerNorm(name="head_norm")(tokens[:, 0].astype(jnp.float32))
        else:
            pooled = x.mean((1, 2))
        return Dense(self.num_classes, init_std=self._init_std, name="head")(pooled)

    @property
    def _init_std(self) -> float | None:
        return 0.02 if self.original else None

    def _check_stages(self) -> None:
        names = ("embed_kernels", "embed_strides", "depths", "num_heads", "mlp_ratios")
        for name in (*names, "proj_kernels", "kv_strides", "embed_paddings"):
            entries = getattr(self, name)
            if len(entries) != len(self.embed_dims) and (name, len(entries)) != (
                "embed_paddings",
                0,
            ):
                raise InputError(
                    f"{name} needs one entry a stage, {len(self.embed_dims)} like embed_dims, "
                    f"got {tuple(entries)}"
                )

    def _embed(self, stage: int, x: Array) -> Array:
        conv = Conv(
            self.embed_dims[stage],
            self.embed_kernels[stage],
            self.embed_strides[stage],
            self.embed_paddings[stage] if self.embed_paddings else None,
            dtype=self.dtype,
            name=f"embed_{stage}",
        )
        return LayerNorm(dtype=self.dtype, name=f"embed_norm_{stage}")(conv(x))

    def _with_class_token(self, tokens: Array) -> Array:
        shape = (1, 1, tokens.shape[-1])
        token = self.param("cls_token", nn.initializers.normal(0.02), shape)
        return prepended(token.astype(tokens.dtype), tokens)

    def _block(self, stage: int, index: int, grid: tuple[Any, Any], drop_path: float) -> Block:
        channels, heads = self.embed_dims[stage], self.num_heads[stage]
        mix = partial(
            ConvAttention,
            grid=grid,
            num_heads=heads,
            head_dim=self.head_dim or channels // heads,
            kernel_size=self.proj_kernels[stage],
            kv_stride=self.kv_strides[stage],
            joint_kv=not self.original,
            qkv_bias=self.original,
            scale=channels**-0.5 if self.original else None,
            init_std=self._init_std,
            dtype=self.dtype,
        )
        return Block(
            mix,
            int(self.mlp_ratios[stage] * channels),
            drop_path=drop_path,
            activation=quick_gelu if self.original else gelu,
            init_std=self._init_std,
            dtype=self.dtype,
            name=f"stage_{stage}_block_{index}",
        )


class ConvAttention(nn.Module):
    """Softmax attention whose query, key and value pass a depthwise convolution first.

    ``q = norm(depthwise(x)) W_q``, and so for key and value, whose convolution may have a stride:
    fewer keys than queries. Tokens in front of the map's (a class token) skip the convolutions.

    Attributes:
      grid: height and width of the map that the last tokens form.
      num_heads: attention heads.
      head_dim: width of a head.
      kernel_size: of the depthwise convolutions.
      kv_stride: stride of the key's and value's.
      joint_kv: one convolution for key and value.
      qkv_bias: biases in the products after the convolutions.
      scale: of the scores; None: ``head_dim^(-1/2)``.
      init_std: as in ``layers.Dense``.
      dtype: type of products and convolutions.
    """

    grid: tuple[Any, Any]
    num_heads: int
    head_dim: int
    kernel_size: int
    kv_stride: int
    joint_kv: bool
    qkv_bias: bool
    scale: float | None = None
    init_std: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"], *, train: bool
    ) -> Float[Array, "batch tokens channels"]:
        """Apply to ``[batch, tokens, channels]``."""
        inner = self.num_heads * self.head_dim
        query = self._project("query", x, inner, 1, train)
        if self.joint_kv:
            both = self._project("key_value", x, 2 * inner, self.kv_stride, train)
            key, value = jnp.split(both, 2, axis=-1)
        else:
            key = self._project("key", x, inner, self.kv_stride, train)
            value = self._project("value", x, inner, self.kv_stride, train)
        q, k, v = (
            t.reshape(x.shape[0], -1, self.num_heads, self.head_dim) for t in (query, key, value)
        )
        out = jax.nn.dot_product_attention(q, k, v, scale=self.scale)
        out = out.reshape(*x.shape[:2], inner)
        return Dense(x.shape[-1], dtype=self.dtype, init_std=self.init_std, name="out")(out)

    def _project(self, name: str, x: Array, features: int, stride: int, train: bool) -> Array:
        batch, tokens, channels = x.shape
        in_front = tokens - self.grid[0] * self.grid[1]
        pixels = x[:, in_front:].reshape(batch, *self.grid, channels)
        conv = DepthwiseConv(
            self.kernel_size, stride, use_bias=False, dtype=self.dtype, name=f"{name}_conv"
        )
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name=f"{name}_norm")
        pixels = norm(conv(pixels)).reshape(batch, -1, channels)
        x = jnp.concatenate([x[:, :in_front], pixels], axis=1)
        return Dense(features, self.qkv_bias, self.dtype, self.init_std, name=name)(x)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """``x sigmoid(1.702 x)``."""
    return x * nn.sigmoid(1.702 * x)
