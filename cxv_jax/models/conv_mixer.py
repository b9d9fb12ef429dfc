"""ConvMixer: a depthwise convolution for space, a dense product for channels, on patches."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.layers import BatchNorm, Conv, Dense, DepthwiseConv, gelu
from cxv_jax.models.embed import as_features, check_images


class ConvMixer(nn.Module):
    """ConvMixer (Trockman and Kolter 2022, arXiv 2201.09792).

    ``x = bn(gelu(patches(image)))``; each block ``x = bn(gelu(depthwise(x))) + x;
    x = bn(gelu(x W + b))``; ``logits = mean_pixels(x) W + b``. Runs at any height and width.

    Source: section 2 of the paper; locuslab/convmixer, ``convmixer.py`` (docs/sources.md). Pixels
    that fill no whole patch at the right and bottom are not seen, as there.

    Attributes:
      num_classes: width of the head.
      embed_dim: channels.
      depth: number of blocks.
      kernel_size: side of the depthwise kernel, odd.
      patch_size: side of a patch in pixels.
      dtype: type of products and convolutions; statistics and logits stay float32.
    """

    num_classes: int = 10
    embed_dim: int = 256
    depth: int = 8
    kernel_size: int = 5
    patch_size: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for images smaller than a patch, or an even kernel.
        """
        check_images(images, smallest=self.patch_size)
        if self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd, got {self.kernel_size}")

        def norm(x: Array, name: str) -> Array:
            layer = BatchNorm(use_running_average=not train, dtype=self.dtype, name=name)
            return layer(gelu(x))

        d, p = self.embed_dim, self.patch_size
        x = Conv(d, p, p, padding=0, dtype=self.dtype, name="stem")(images.astype(self.dtype))
        x = norm(x, "stem_norm")
        for i in range(self.depth):
            name = f"depthwise_{i}"
            mixed = DepthwiseConv(self.kernel_size, dtype=self.dtype, name=name)(x)
            x = norm(mixed, f"depthwise_norm_{i}") + x
            x = norm(Dense(d, dtype=self.dtype, name=f"dense_{i}")(x), f"dense_norm_{i}")
        x = as_features(self, x)
        return Dense(self.num_classes, name="head")(x.astype(jnp.float32).mean((1, 2)))
