"""Convolutional X-formers (arXiv 2201.10271): one trunk; CPV, CNV and CLTV differ in the mixer."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.attention import linear_attention
from cxv_jax.errors import InputError
from cxv_jax.layers import ChannelNorm, Conv, Dense, Mlp, MultiHeadAttention, Nystrom, Performer
from cxv_jax.models.remat import run_layers


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
        _check_size(images, max(3, self.embed_stride**self.depth))
        x = images.astype(self.dtype)
        x = Conv(self.embed_dim // 2 // 2, dtype=self.dtype, name="stem_0")(x)
        x = Conv(self.embed_dim // 2, dtype=self.dtype, name="stem_1")(x)
        for i in range(self.depth):
            names = [f"{layer}_{i}" for layer in ("embed", "norm", "attention", "mlp")]
            block = partial(self._block, i, train)
            x = run_layers(self, names, block, x, again=self.remat == "block")
        pooled = x.astype(jnp.float32).mean((1, 2))
        return Dense(self.num_classes, name="head")(pooled)

    # Not wrapped by Flax: submodules made here belong to the module whose call is running.
    @nn.nowrap
    def _block(self, i: int, train: bool, x: Array) -> Array:
        conv = Conv(
            self.embed_dim,
            self.embed_kernel,
            self.embed_stride,
            dtype=self.dtype,
            name=f"embed_{i}",
        )
        x = ChannelNorm(name=f"norm_{i}")(conv(x))
        name = f"attention_{i}"
        attend = partial(self._attend, name, train)
        x = run_layers(self, [name], attend, x, again=self.remat == "attention") + x
        hidden = int(self.mlp_ratio * self.embed_dim)
        return Mlp(hidden, self.dropout, self.dtype, name=f"mlp_{i}")(x, train=train) + x

    @nn.nowrap
    def _attend(self, name: str, train: bool, x: Array) -> Array:
        return self._mixer(name)(x, train=train)

    @nn.nowrap
    def _mixer(self, name: str) -> MultiHeadAttention:
        """What makes the three models different."""
        heads: dict[str, Any] = dict(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dropout=self.attention_dropout,
            dtype=self.dtype,
            name=name,
        )
        if self.mixer == "performer":
            attend = Performer(self.num_features, self.stabilizer, parent=None)
            return MultiHeadAttention(attend=attend, **heads)
        if self.mixer == "nystrom":
            nystrom = Nystrom(
                self.num_landmarks,
                self.pinv_iterations,
                self.residual_kernel,
                self.stabilizer,
                parent=None,
            )
            return MultiHeadAttention(attend=nystrom, qkv_bias=False, **heads)
        return MultiHeadAttention(attend=linear_attention, kernel_size=3, **heads)


def _check_size(images: Array, smallest: int) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"expected non-empty images [batch, height, width, channels], got shape {images.shape}"
        )
    if min(images.shape[1:3]) < smallest:
        raise InputError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for this model: "
            f"each side needs at least {smallest} pixels; resize them or lower embed_stride"
        )
