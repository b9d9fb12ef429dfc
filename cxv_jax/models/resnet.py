"""ResNet with the small-image stem: a 3x3 convolution and no max-pool."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.layers import BatchNorm, Conv, Dense
from cxv_jax.models.embed import as_features, check_images


class ResNet(nn.Module):
    """Residual network (He et al. 2015, arXiv 1512.03385) for images of about 32x32 pixels.

    Stem, four stages of blocks with stride 2 between the stages, mean over the pixels, head.
    Runs at any height and width.

    Source: kuangliu/pytorch-cifar, ``models/resnet.py`` (docs/sources.md); its 4x4 average pool
    equals the global mean at 32x32.

    Attributes:
      num_classes: width of the head.
      depths: blocks of each stage.
      widths: channels of each stage; the stem has the first.
      bottleneck: blocks of three convolutions with four times the channels at the end.
      dtype: type of convolutions; statistics and logits stay float32.
    """

    num_classes: int = 10
    depths: Sequence[int] = (2, 2, 2, 2)
    widths: Sequence[int] = (64, 128, 256, 512)
    bottleneck: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for empty images or ``depths`` that do not fit ``widths``.
        """
        check_images(images)
        if len(self.depths) != len(self.widths):
            raise InputError(
                f"depths and widths need one entry a stage, got {tuple(self.depths)} and "
                f"{tuple(self.widths)}"
            )
        x = Conv(self.widths[0], use_bias=False, dtype=self.dtype, name="stem")(
            images.astype(self.dtype)
        )
        norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name="stem_norm")
        x = nn.relu(norm(x))
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage_{stage}_block_{i}"
                block = ResidualBlock(width, stride, self.bottleneck, self.dtype, name=name)
                x = block(x, train=train)
        x = as_features(self, x)
        return Dense(self.num_classes, name="head")(x.astype(jnp.float32).mean((1, 2)))


class ResidualBlock(nn.Module):
    """``relu(branch(x) + shortcut(x))``; a branch is two convolutions, or three (bottleneck)."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply to ``[batch, height, width, channels]``."""
        w, s = self.width, self.stride
        layers = [(w, 3, s), (w, 3, 1)]  # features, kernel size, stride
        if self.bottleneck:
            layers = [(w, 1, 1), (w, 3, s), (4 * w, 1, 1)]

        def conv_norm(x: Array, features: int, kernel: int, stride: int, name: str) -> Array:
            conv = Conv(features, kernel, stride, use_bias=False, dtype=self.dtype, name=name)
            norm = BatchNorm(use_running_average=not train, dtype=self.dtype, name=f"{name}_norm")
            return norm(conv(x))

        y = x
        for i, (features, kernel, stride) in enumerate(layers):
            y = conv_norm(y if i == 0 else nn.relu(y), features, kernel, stride, f"conv_{i}")
        if x.shape != y.shape:
            x = conv_norm(x, y.shape[-1], 1, s, "shortcut")
        return nn.relu(y + x)
