"""Compact convolutional transformer: a convolutional tokenizer and sequence pooling."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.layers import Dense, Dropout, LayerNorm
from cxv_jax.mixers import MultiHeadAttention, Softmax
from cxv_jax.models.embed import ConvEmbed, as_features, check_images
from cxv_jax.models.remat import run_blocks
from cxv_jax.models.trunk import Block

INIT_STD = 0.02  # Of every dense product.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class CCT(nn.Module):
    """CCT (Hassani et al. 2021, arXiv 2104.05704).

    ``x = pool(relu(conv(x)))`` for each convolution, ``x = x + positions``, blocks, then
    ``x = norm(x); logits = (softmax_tokens(x w)^T x) W + b``. A block's MLP adds to the
    *normalised* stream: ``x = attend(norm(x)) + x; x = norm(x); x = mlp(x) + x``.
    Cost: quadratic in tokens. Sine positions run at any height and width.

    Source: SHI-Labs/Compact-Transformers, ``src/cct.py`` (docs/sources.md). The truncation of
    its normal initialisation lies at 100 (positions: 10) deviations and is left out.

    Attributes:
      num_classes: width of the head.
      image_size: side of the images in pixels (learned positions).
      embed_dim: channels of a token.
      depth: number of blocks.
      num_heads: attention heads; they share ``embed_dim``.
      mlp_ratio: hidden width of the MLP over ``embed_dim``.
      num_convs: convolutions of the tokenizer.
      conv_dim: channels of all but the last of them.
      conv_kernel: their kernel size.
      conv_strides: their strides.
      conv_padding: their padding.
      pool_kernel: kernel of the max-pool after each convolution.
      pool_stride: its stride.
      pool_padding: its padding.
      positions: ``"learned"`` or fixed ``"sine"``.
      dropout: rate after the positions, after attention and in the MLP.
      attention_dropout: rate on the attention weights.
      drop_path: rate of the last block, growing from 0 in the first.
      dtype: type of products and convolutions; statistics, softmax and logits stay float32.
      remat: ``"block"``: the backward pass computes each block again instead of keeping it. Less
        memory and more time, the same results.
    """

    num_classes: int = 10
    image_size: int = 32
    embed_dim: int = 256
    depth: int = 7
    num_heads: int = 4
    mlp_ratio: float = 2
    num_convs: int = 1
    conv_dim: int = 64
    conv_kernel: int = 3
    conv_strides: Sequence[int] = (1,)
    conv_padding: int = 1
    pool_kernel: int = 3
    pool_stride: int = 2
    pool_padding: int = 1
    positions: Literal["learned", "sine"] = "learned"
    dropout: float = 0.0
    attention_dropout: float = 0.1
    drop_path: float = 0.1
    dtype: Any = jnp.float32
    remat: Literal["none", "block"] = "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for images of a size the model was not built for, or
            fields that do not fit each other.
        """
        check_images(images, image_size=self.image_size if self.positions == "learned" else None)
        x = self._tokenizer()(images.astype(self.dtype))  # [batch, tokens, embed_dim]
        x = Dropout(self.dropout)(x + self._positions(x).astype(x.dtype), train=train)
        rates = np.linspace(0, self.drop_path, self.depth).tolist()
        x = run_blocks(self, [self._block(rate, train) for rate in rates], x, train=train)
        x = as_features(self, x)
        x = LayerNorm(name="head_norm")(x.astype(jnp.float32))
        weights = jax.nn.softmax(Dense(1, init_std=INIT_STD, name="pool")(x), axis=1)
        return Dense(self.num_classes, init_std=INIT_STD, name="head")((weights * x).sum(1))

    def _tokenizer(self) -> nn.Module:
        strides = tuple(self.conv_strides)
        if len(strides) != self.num_convs:
            raise InputError(
                f"conv_strides needs {self.num_convs} entries (num_convs), got {strides}"
            )
        window, stride, pad = self.pool_kernel, self.pool_stride, self.pool_padding

        def relu_pool(x: Array) -> Array:
            padding = ((pad, pad), (pad, pad))
            return nn.max_pool(nn.relu(x), (window, window), (stride, stride), padding)

        return ConvEmbed(
            (*[self.conv_dim] * (self.num_convs - 1), self.embed_dim),
            strides,
            self.conv_kernel,
            self.conv_padding,
            use_bias=False,
            kernel_init=kaiming_normal,
            then=relu_pool,
            dtype=self.dtype,
            name="tokenizer",
        )

    def _positions(self, x: Array) -> Array:
        if self.positions == "sine":
            return jnp.asarray(_sine_table(*x.shape[1:]))
        return self.param("pos_embedding", nn.initializers.normal(0.2), (1, *x.shape[1:]))

    def _block(self, drop_path: float, train: bool) -> partial[Any]:
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"num_heads must divide embed_dim {self.embed_dim}, got {self.num_heads}"
            )
        attention = partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            head_dim=self.embed_dim // self.num_heads,
            attend=partial(Softmax, dropout=self.attention_dropout if train else 0.0),
            qkv_bias=False,
            dropout=self.dropout,
            init_std=INIT_STD,
            dtype=self.dtype,
        )
        return partial(
            Block,
            attention,
            int(self.mlp_ratio * self.embed_dim),
            dropout=self.dropout,
            drop_path=drop_path,
            keep_normed=True,
            init_std=INIT_STD,
            dtype=self.dtype,
        )


def _sine_table(length: Any, channels: int) -> Any:
    """Sine (even channels) and cosine of ``j / 10000^(2 floor(i / 2) / channels)``, float32."""
    numpy: Any = np if isinstance(length, int) else jnp  # jnp: of a symbol of jax.export.
    i = np.arange(channels)[None]
    angle = numpy.arange(length)[:, None] / 10000 ** (2 * (i // 2) / channels)
    return numpy.where(i % 2, numpy.cos(angle), numpy.sin(angle)).astype(np.float32)[None]
