"""CXV as a pyramid: convolutional sub-layers and linear attention on shrinking maps."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from cxv_jax.attention import linear_attention
from cxv_jax.errors import InputError
from cxv_jax.layers import (
    BatchNorm,
    ChannelNorm,
    Conv,
    Dense,
    DepthwiseConv,
    DropPath,
    gelu,
)
from cxv_jax.mixers import Attend, MultiHeadAttention, Nystrom, Performer, Softmax
from cxv_jax.models.embed import as_features, check_images

Mixer = Literal["linear", "performer", "nystrom", "softmax", "none"]
Norm = Literal["batch", "group", "channel"]


class CXVPyramid(nn.Module):
    """CXV for little data and little machine: a stride only where a stage begins.

    Stem of 3x3 convolutions, ``x = gelu(norm(conv(x)))``. Each block: the convolutional sub-layer
    ``x = x + gelu(norm(conv(x)))`` (without ``x +`` where a stage begins and the map shrinks),
    then ``x = x + attend(x)`` and ``x = x + mlp(x)``. ``logits = mean_pixels(x) W + b``. As in
    CXV there is no class token and no position embedding: the same weights run at any height and
    width. Cost: linear in the number of pixels, unless ``mixer="softmax"``.

    Source: ours. Published CXV (arXiv 2201.10271, :class:`~cxv_jax.models.cxv.CXV`) keeps the full
    map, has no skip path around the convolution, and normalises every pixel over its channels.

    Attributes:
      mixer: ``"linear"``, ``"performer"``, ``"nystrom"``, ``"softmax"`` (quadratic), or ``"none"``:
        no attention at all, the control.
      rule: of the linear attention, see :func:`cxv_jax.attention.linear_attention`.
      local: whether attention adds a depthwise convolution of the values.
      gate: whether attention is gated.
      num_classes: width of the head.
      stem_dims: channels of the stem's convolutions.
      stem_strides: their strides.
      embed_dims: channels of each stage; the following have one entry a stage too.
      strides: of the convolution that begins the stage.
      depths: blocks.
      num_heads: attention heads, which share the channels.
      mlp_ratio: hidden width of the MLP over the channels.
      mlp_conv: a depthwise 3x3 convolution between the MLP's products.
      norm: of the convolutions: ``"batch"``, ``"group"`` (4 channels each) or ``"channel"`` (every
        pixel over its channels, as published).
      stem_norm: whether the stem is normalised and activated; False: linear, as published.
      residual: whether the convolutional sub-layer has its skip path; False: as published.
      num_landmarks: landmarks (nystrom).
      drop_path: rate at which the last block's branches are skipped, growing from 0 at the first.
      dtype: type of products and convolutions; statistics, softmax and logits stay float32.
    """

    mixer: Mixer = "linear"
    rule: Literal["softmax", "elu", "mala", "rala"] = "elu"
    local: bool = True
    gate: bool = False
    num_classes: int = 10
    stem_dims: Sequence[int] = (24, 48)
    stem_strides: Sequence[int] = (1, 1)
    embed_dims: Sequence[int] = (96, 144)
    strides: Sequence[int] = (2, 2)
    depths: Sequence[int] = (2, 3)
    num_heads: Sequence[int] = (4, 6)
    mlp_ratio: float = 2.0
    mlp_conv: bool = False
    norm: Norm = "batch"
    stem_norm: bool = True
    residual: bool = True
    num_landmarks: int = 64
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for empty images, or fields that do not fit each other.
        """
        check_images(images)
        self._check_stages()
        conv = partial(ConvNorm, norm=self.norm, dtype=self.dtype)
        x = images.astype(self.dtype)
        for i, (width, stride) in enumerate(zip(self.stem_dims, self.stem_strides, strict=True)):
            if self.stem_norm:
                x = conv(width, stride, name=f"stem_{i}")(x, train=train)
            else:
                x = Conv(width, stride=stride, dtype=self.dtype, name=f"stem_{i}")(x)
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                block = PyramidBlock(
                    conv=partial(conv, self.embed_dims[stage], 1 if i else self.strides[stage]),
                    attend=self._attend,
                    num_heads=self.num_heads[stage],
                    local=self.local,
                    gate=self.gate,
                    mlp_ratio=self.mlp_ratio,
                    mlp_conv=self.mlp_conv,
                    residual=self.residual and i > 0,
                    drop_path=next(rates),
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{i}",
                )
                x = block(x, train=train)
        x = as_features(self, x)
        return Dense(self.num_classes, name="head")(x.astype(jnp.float32).mean((1, 2)))

    @property
    def _attend(self) -> Attend | None:
        makers: dict[str, Attend] = {
            "linear": partial(linear_attention, rule=self.rule),
            "performer": Performer,
            "nystrom": partial(Nystrom, self.num_landmarks),
            "softmax": Softmax,
        }
        return makers.get(self.mixer)

    def _check_stages(self) -> None:
        for name in ("strides", "depths", "num_heads"):
            if len(getattr(self, name)) != len(self.embed_dims):
                raise InputError(
                    f"{name} needs one entry a stage, {len(self.embed_dims)} like embed_dims, "
                    f"got {tuple(getattr(self, name))}"
                )
        if len(self.stem_strides) != len(self.stem_dims):
            raise InputError(
                f"stem_strides needs {len(self.stem_dims)} entries like stem_dims, got "
                f"{tuple(self.stem_strides)}"
            )
        for width, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if width % heads:
                raise InputError(f"{heads} heads cannot share {width} channels: choose a divisor")


class PyramidBlock(nn.Module):
    """A convolution, attention and an MLP; see :class:`CXVPyramid`.

    Attributes:
      conv: makes the convolution.
      attend: as in :class:`~cxv_jax.mixers.MultiHeadAttention`; None for no attention.
      num_heads, local, gate: as in :class:`~cxv_jax.mixers.MultiHeadAttention`.
      mlp_ratio, mlp_conv, drop_path, dtype: as in :class:`CXVPyramid`.
      residual: whether the convolution has a skip path.
    """

    conv: Callable[..., nn.Module]
    attend: Attend | None
    num_heads: int
    local: bool
    gate: bool
    mlp_ratio: float
    mlp_conv: bool
    residual: bool
    drop_path: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply to ``[batch, height, width, channels]``."""
        y = self.conv(name="conv")(x, train=train)
        x = x + y if self.residual else y
        channels = x.shape[-1]
        if self.attend:
            attention = MultiHeadAttention(
                self.num_heads,
                channels // self.num_heads,
                self.attend,
                local=self.local,
                gate=self.gate,
                dtype=self.dtype,
                name="attention",
            )
            x = x + DropPath(self.drop_path)(attention(x, train=train), train=train)
        return x + DropPath(self.drop_path)(self._mlp(x), train=train)

    @nn.nowrap
    def _mlp(self, x: Array) -> Array:
        hidden = Dense(int(self.mlp_ratio * x.shape[-1]), dtype=self.dtype, name="fc1")(x)
        if self.mlp_conv:
            hidden = DepthwiseConv(3, dtype=self.dtype, name="mlp_conv")(hidden)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(gelu(hidden))


class ConvNorm(nn.Module):
    """``gelu(norm(conv_3x3(x)))``."""

    features: int
    stride: int
    norm: Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply to ``[batch, height, width, channels]``."""
        x = Conv(self.features, stride=self.stride, use_bias=False, dtype=self.dtype, name="conv")(
            x
        )
        if self.norm == "batch":
            norm: nn.Module = BatchNorm(
                use_running_average=not train, dtype=self.dtype, name="norm"
            )
        elif self.norm == "group":
            norm = nn.GroupNorm(None, 4, epsilon=1e-5, dtype=self.dtype, name="norm")
        else:
            norm = ChannelNorm(name="norm")
        return gelu(norm(x))
