"""What the comparison models share: the pre-norm block, and a trunk of them on tokens."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.layers import Dense, Dropout, DropPath, LayerNorm, Mlp, gelu
from cxv_jax.models.embed import as_features, check_images, vix_embed
from cxv_jax.models.remat import run_blocks

Mixer = Callable[..., nn.Module]  # Takes a name.


class Block(nn.Module):
    """``x = mix(norm(x)) + x; x = mlp(norm(x)) + x``.

    Attributes:
      mix: makes what moves information between tokens, called ``mix(x, train=train)``.
      hidden: hidden width of the MLP.
      dropout: rate in the MLP.
      drop_path: rate at which an example skips a branch.
      keep_normed: CCT's ``x = norm(x); x = mlp(x) + x`` in the second half.
      norm: normalisation over the channels.
      activation: the MLP's.
      init_std: the MLP's, as in ``layers.Dense``.
      dtype: type of products.
    """

    mix: Mixer
    hidden: int
    dropout: float = 0.0
    drop_path: float = 0.0
    keep_normed: bool = False
    norm: Callable[..., nn.Module] = LayerNorm
    activation: Callable[[Array], Array] = gelu
    init_std: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"], *, train: bool
    ) -> Float[Array, "batch tokens channels"]:
        """Apply to ``[batch, tokens, channels]``."""
        normed = self.norm(dtype=self.dtype, name="norm_mix")(x)
        mixed = self.mix(name="mix")(normed, train=train)
        x = x + DropPath(self.drop_path)(mixed, train=train)
        normed = self.norm(dtype=self.dtype, name="norm_mlp")(x)
        mlp = Mlp(self.hidden, self.dropout, self.dtype, self.activation, self.init_std, name="mlp")
        out = DropPath(self.drop_path)(mlp(normed, train=train), train=train)
        return (normed if self.keep_normed else x) + out


def prepended(token: Array, x: Array) -> Array:
    """``token``, ``[1, 1, channels]``, before the tokens of every image, split as they are."""
    shape = (x.shape[0], 1, x.shape[-1])
    first = jnp.broadcast_to(token, shape, out_sharding=jax.typeof(x).sharding)
    return jnp.concatenate([first, x], axis=1)


class TokenTrunk(nn.Module):
    """Tokens, a class token, positions, pre-norm blocks, a head: what ViT and FNet share.

    ``x = [cls_token, embed(image)] + pos_embedding``, ``depth`` times
    :class:`Block`, ``logits = norm(x_0) W + b``.

    Source: pranavphoenix/VisionXformer, ``Models/ViT.py`` and ``Models/HybridViT.py``
    (docs/sources.md).

    Attributes:
      num_classes: width of the head.
      image_size: side of the images in pixels; the model runs at no other where its positions or
        its attention are tied to one number of tokens.
      hybrid: embed by three convolutions instead of patches.
      patch_size: side of a patch in pixels (not hybrid).
      stem_dims: channels of the first two convolutions (hybrid).
      stem_strides: strides of the three convolutions (hybrid).
      embed_dim: channels of a token.
      depth: number of blocks.
      mlp_dim: hidden width of the MLP.
      pool: ``"cls"`` reads the class token, ``"mean"`` the mean of all tokens.
      dropout: rate in the MLP and (softmax attention) after attention.
      embed_dropout: rate after the positions.
      dtype: type of products and convolutions; statistics, softmax and logits stay float32.
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
    mlp_dim: int = 256
    pool: Literal["cls", "mean"] = "cls"
    dropout: float = 0.0
    embed_dropout: float = 0.0
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
        size = None if self.any_size else self.image_size
        check_images(images, image_size=size, multiple=self.patch_size)
        x = vix_embed(
            self.hybrid,
            self.patch_size,
            self.embed_dim,
            self.stem_dims,
            self.stem_strides,
            self.dtype,
        )(images.astype(self.dtype))
        x = self._with_class_token_and_positions(x)
        x = Dropout(self.embed_dropout)(x, train=train)
        block = partial(Block, self._mixer(), self.mlp_dim, dropout=self.dropout, dtype=self.dtype)
        x = run_blocks(self, [block] * self.depth, x, train=train)
        x = as_features(self, x)
        x = x.astype(jnp.float32)
        pooled = x[:, 0] if self.pool == "cls" else x.mean(1)
        return Dense(self.num_classes, name="head")(LayerNorm(name="head_norm")(pooled))

    def _with_class_token_and_positions(self, x: Array) -> Array:
        normal = nn.initializers.normal(1.0)
        token = self.param("cls_token", normal, (1, 1, x.shape[-1])).astype(x.dtype)
        x = prepended(token, x)
        if not self.learned_positions:
            return x
        return x + self.param("pos_embedding", normal, (1, *x.shape[1:])).astype(x.dtype)

    @property
    def learned_positions(self) -> bool:
        """Whether ``pos_embedding`` is added to the tokens."""
        return True

    @property
    def any_size(self) -> bool:
        """Whether the weights fit any number of tokens."""
        return False

    def _mixer(self) -> Mixer:
        raise NotImplementedError
