"""Convolutional X-formers (arXiv 2201.10271): one trunk; CPV, CNV and CLTV differ in the mixer."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.attention import linear_attention
from cxv_jax.layers import ChannelNorm, Conv, Dense, Mlp
from cxv_jax.mixers import MultiHeadAttention, Nystrom, Performer
from cxv_jax.models.embed import as_features, check_images
from cxv_jax.models.remat import run_block


class CXV(nn.Module):
    """Convolutional X-former: convolutions and linear attention, stacked.

    ``x = conv(conv(image))``; each block ``x = norm(conv(x)); x = attend(x) + x;
    x = mlp(x) + x``; ``logits = mean_pixels(x) W + b``. The residual is the normalised tensor;
    there is no class token, no position embedding and no final norm, so the same weights run at
    any height and width. Cost: linear in the number of pixels.

    Source: pranavphoenix/CXV, ``CPV.py``, ``CNV.py``, ``CLTV.py`` (docs/sources.md). Differences:
    query, key and value come from one fused product (CNV's already do);
    ``stabilizer="example"`` keeps the images of a batch independent.

    Attributes:
      mixer: ``"performer"`` (CPV), ``"nystrom"`` (CNV) or ``"linear"`` (CLTV).
      num_classes: width of the head.
      embed_dim: channels of every block; the stem has a quarter, then half of it.
      embed_kernel: kernel of the convolution that opens each block.
      embed_stride: its stride, in **every** block.
      depth: number of blocks.
      num_heads: attention heads.
      head_dim: width of a head, independent of ``embed_dim``.
      mlp_ratio: hidden width of the MLP over ``embed_dim``.
      dropout: rate in the MLP.
      attention_dropout: rate after attention.
      num_features: random features (CPV); 0: ``int(head_dim ln head_dim)``.
      num_landmarks: landmarks (CNV).
      pinv_iterations: pseudo-inverse steps (CNV).
      residual_kernel: taps of the values' depthwise convolution (CNV).
      stabilizer: ``"example"``, or ``"batch"`` as in the reference.
      dtype: type of products and convolutions; statistics, softmax and logits stay float32.
      remat: what the backward pass computes again instead of keeping it: ``"none"``, each
        ``"attention"`` or each whole ``"block"``. Less memory and more time, the same results.
    """

    mixer: Literal["performer", "nystrom", "linear"]
    num_classes: int = 10
    embed_dim: int = 128
    embed_kernel: int = 3
    embed_stride: int = 1
    depth: int = 5
    num_heads: int = 4
    head_dim: int = 32
    mlp_ratio: float = 2.0
    dropout: float = 0.5
    attention_dropout: float = 0.0
    num_features: int = 0
    num_landmarks: int = 64
    pinv_iterations: int = 6
    residual_kernel: int = 33
    stabilizer: Literal["example", "batch"] = "example"
    dtype: Any = jnp.float32
    remat: Literal["none", "attention", "block"] = "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for an empty or too small image.
        """
        check_images(images, smallest=max(3, self.embed_stride**self.depth))
        x = images.astype(self.dtype)
        x = Conv(self.embed_dim // 2 // 2, dtype=self.dtype, name="stem_0")(x)
        x = Conv(self.embed_dim // 2, dtype=self.dtype, name="stem_1")(x)
        block = partial(
            CXVBlock,
            partial(Conv, self.embed_dim, self.embed_kernel, self.embed_stride, dtype=self.dtype),
            self._mixer(),
            int(self.mlp_ratio * self.embed_dim),
            dropout=self.dropout,
            dtype=self.dtype,
            remat_attention=self.remat == "attention",
        )
        for i in range(self.depth):
            x = run_block(
                self,
                partial(block, index=i, name=f"block_{i}"),
                x,
                train=train,
                again=self.remat == "block",
                names=[f"{layer}_{i}" for layer in CXVBlock.LAYERS],
            )
        x = as_features(self, x)
        pooled = x.astype(jnp.float32).mean((1, 2))
        return Dense(self.num_classes, name="head")(pooled)

    def _mixer(self) -> Callable[..., nn.Module]:
        """What makes the three models different."""
        heads = partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dropout=self.attention_dropout,
            dtype=self.dtype,
        )
        if self.mixer == "performer":
            return partial(heads, attend=partial(Performer, self.num_features, self.stabilizer))
        if self.mixer == "nystrom":
            nystrom = partial(
                Nystrom,
                self.num_landmarks,
                self.pinv_iterations,
                self.residual_kernel,
                self.stabilizer,
            )
            return partial(heads, attend=nystrom, qkv_bias=False)
        return partial(heads, attend=linear_attention, kernel_size=3)


class CXVBlock(nn.Module):
    """``x = norm(conv(x)); x = attend(x) + x; x = mlp(x) + x``.

    Its layers are called ``embed_<index>`` and so on and stand beside those of other blocks, in
    the scope of the model: so are the parameters of published checkpoints.

    Attributes:
      conv: makes the convolution.
      mix: makes the attention.
      hidden: hidden width of the MLP.
      dropout: rate in the MLP.
      index: of the block.
      dtype: type of products.
      remat_attention: whether the backward pass computes the attention again.
    """

    LAYERS: ClassVar[tuple[str, ...]] = ("embed", "norm", "attention", "mlp")

    conv: Callable[..., nn.Module]
    mix: Callable[..., nn.Module]
    hidden: int
    dropout: float = 0.0
    index: int = 0
    dtype: Any = jnp.float32
    remat_attention: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply to ``[batch, height, width, channels]``."""
        embed, norm, attention, mlp = (f"{layer}_{self.index}" for layer in self.LAYERS)
        x = ChannelNorm(name=norm)(self.conv(name=embed)(x))
        mix = partial(self.mix, name=attention)
        x = run_block(self, mix, x, train=train, again=self.remat_attention) + x
        return Mlp(self.hidden, self.dropout, self.dtype, name=mlp)(x, train=train) + x
