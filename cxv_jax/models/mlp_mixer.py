"""MLP-Mixer: one MLP over the tokens, one over the channels."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.layers import Dense, LayerNorm, Mlp
from cxv_jax.models.embed import as_features, check_images, vix_embed
from cxv_jax.models.remat import run_blocks
from cxv_jax.models.trunk import Block


class TokenMlp(nn.Module):
    """``layers.Mlp`` along the tokens, the same for every channel."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"], *, train: bool
    ) -> Float[Array, "batch tokens channels"]:
        """Apply to ``[batch, tokens, channels]``."""
        mlp = Mlp(self.hidden, dtype=self.dtype, name="mlp")
        return mlp(x.swapaxes(1, 2), train=train).swapaxes(1, 2)


class MlpMixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601), also with a convolutional stem.

    ``x = embed(image)``, ``depth`` times :class:`~cxv_jax.models.trunk.Block` with
    :class:`TokenMlp`, ``logits = mean_tokens(norm(x)) W + b``. No positions, no class token: the
    weights over the tokens fit one image size.

    Source: pranavphoenix/VisionXformer, ``Models/MLPMixer.py`` and ``Models/HybridMLPMixer.py``
    (docs/sources.md).

    Attributes:
      num_classes: width of the head.
      image_size: side of the images in pixels.
      hybrid: embed by three convolutions instead of patches.
      patch_size: side of a patch in pixels (not hybrid).
      stem_dims: channels of the first two convolutions (hybrid).
      stem_strides: strides of the three convolutions (hybrid).
      embed_dim: channels of a token.
      depth: number of blocks.
      tokens_dim: hidden width of the MLP over the tokens.
      channels_dim: hidden width of the MLP over the channels.
      dtype: type of products and convolutions; statistics and logits stay float32.
      remat: ``"block"``: the backward pass computes each block again instead of keeping it. Less
        memory and more time, the same results.
    """

    num_classes: int = 10
    image_size: int = 32
    hybrid: bool = False
    patch_size: int = 1
    stem_dims: Sequence[int] = (32, 64)
    stem_strides: Sequence[int] = (1, 1, 1)
    embed_dim: int = 128
    depth: int = 4
    tokens_dim: int = 1024
    channels_dim: int = 128
    dtype: Any = jnp.float32
    remat: Literal["none", "block"] = "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Classify ``[batch, height, width, channels]`` images; float32 logits.

        Raises:
          InputError: (a ``ValueError``) for images of a size the model was not built for.
        """
        check_images(images, image_size=self.image_size, multiple=self.patch_size)
        x = vix_embed(
            self.hybrid,
            self.patch_size,
            self.embed_dim,
            self.stem_dims,
            self.stem_strides,
            self.dtype,
        )(images.astype(self.dtype))
        mix = partial(TokenMlp, self.tokens_dim, self.dtype)
        block = partial(Block, mix, self.channels_dim, dtype=self.dtype)
        x = run_blocks(self, [block] * self.depth, x, train=train)
        x = as_features(self, x)
        x = LayerNorm(name="head_norm")(x.astype(jnp.float32))
        return Dense(self.num_classes, name="head")(x.mean(1))
