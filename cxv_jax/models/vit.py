"""Vision transformer and the (hybrid) X-formers ViL, ViN, ViP, with learned or rotary positions.

A hybrid ViN differs from a ViT in two fields: ``hybrid=True`` replaces the patches by three
convolutions, ``mixer="nystrom"`` replaces softmax attention; ``rope=True`` replaces the learned
positions by rotary ones. Everything else is :class:`TokenTrunk`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.attention import linformer_attention, rotate
from cxv_jax.errors import InputError
from cxv_jax.layers import (
    AttentionFn,
    Dense,
    Dropout,
    LayerNorm,
    MultiHeadAttention,
    Nystrom,
    Performer,
    bias_init,
)
from cxv_jax.models.remat import run_layers
from cxv_jax.models.trunk import Block, Softmax, check_images, vix_embed


class TokenTrunk(nn.Module):
    """Tokens, a class token, positions, pre-norm blocks, a head: what ViT and FNet share.

    ``x = [cls_token, embed(image)] + pos_embedding``, ``depth`` times
    :class:`~cxv_jax.models.trunk.Block`, ``logits = norm(x_0) W + b``.

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
        for i in range(self.depth):
            name = f"block_{i}"
            x = run_layers(
                self, [name], partial(self._block, name, train), x, again=self.remat == "block"
            )
        x = x.astype(jnp.float32)
        pooled = x[:, 0] if self.pool == "cls" else x.mean(1)
        return Dense(self.num_classes, name="head")(LayerNorm(name="head_norm")(pooled))

    @nn.nowrap
    def _block(self, name: str, train: bool, x: Array) -> Array:
        block = Block(self._mixer(), self.mlp_dim, self.dropout, dtype=self.dtype, name=name)
        return block(x, train=train)

    def _with_class_token_and_positions(self, x: Array) -> Array:
        normal = nn.initializers.normal(1.0)
        token = self.param("cls_token", normal, (1, 1, x.shape[-1])).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, x.shape[-1])), x], axis=1)
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

    def _mixer(self) -> nn.Module:
        raise NotImplementedError


class ViT(TokenTrunk):
    """ViT and its X-formers: attention by name, everything else from :class:`TokenTrunk`.

    Source: pranavphoenix/VisionXformer, ``Models/ViT.py``, ``ViL.py``, ``ViN.py``, ``ViP.py`` and
    their hybrid and RoPE forms (docs/sources.md). Differences: the plain ViN takes its number of
    heads from ``num_heads``; the output projection is there even for one head as wide as the
    token; ViL has no dropout of attention weights (its rate was 0); ``stabilizer="example"`` keeps
    the images of a batch independent; the rotary models do not carry the position embedding that
    some of them own and never use.

    Attributes:
      mixer: ``"softmax"`` (ViT), ``"linformer"`` (ViL), ``"nystrom"`` (ViN) or ``"performer"``
        (ViP).
      rope: rotary positions instead of learned ones.
      num_heads: attention heads.
      head_dim: width of a head, independent of ``embed_dim``.
      num_projected: tokens that keys and values are projected to (ViL).
      one_kv_head: all heads share one key and value (ViL).
      num_landmarks: landmarks (ViN).
      pinv_iterations: pseudo-inverse steps (ViN).
      residual_kernel: taps of the values' depthwise convolution (ViN).
      num_features: random features (ViP); 0: ``int(head_dim ln head_dim)``.
      stabilizer: ``"example"``, or ``"batch"`` as in the reference (ViN, ViP).
    """

    mixer: Literal["softmax", "linformer", "nystrom", "performer"] = "softmax"
    rope: bool = False
    num_heads: int = 4
    head_dim: int = 32
    num_projected: int = 64
    one_kv_head: bool = False
    num_landmarks: int = 64
    pinv_iterations: int = 6
    residual_kernel: int = 33
    num_features: int = 0
    stabilizer: Literal["example", "batch"] = "example"

    @property
    def learned_positions(self) -> bool:
        """Rotary positions replace the learned ones."""
        return not self.rope

    @property
    def any_size(self) -> bool:
        """Learned positions and Linformer's projection fit one number of tokens."""
        return self.rope and self.mixer != "linformer"

    def _mixer(self) -> nn.Module:
        """What makes the four models different."""
        heads: dict[str, Any] = dict(
            num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype, parent=None
        )
        if self.mixer == "linformer":
            return LinformerAttention(
                num_projected=self.num_projected,
                one_kv_head=self.one_kv_head,
                rope=self.rope,
                **heads,
            )
        if self.mixer == "performer":
            performer = Performer(self.num_features, self.stabilizer, parent=None)
            attend = InSequence(performer, self.rope, parent=None)
            return MultiHeadAttention(attend=attend, **heads)
        if self.mixer == "nystrom":
            nystrom = Nystrom(
                self.num_landmarks,
                self.pinv_iterations,
                self.residual_kernel,
                self.stabilizer,
                parent=None,
            )
            attend = InSequence(nystrom, self.rope, self.num_landmarks, parent=None)
            return MultiHeadAttention(attend=attend, qkv_bias=False, **heads)
        attend = InSequence(Softmax(parent=None), self.rope, parent=None)
        return MultiHeadAttention(attend=attend, qkv_bias=False, dropout=self.dropout, **heads)


class InSequence(nn.Module):
    """Zero tokens in front (unmasked, as ViN's reference has them), rotary positions, ``attend``.

    The reference pads before its projections; they have no bias, so zeros come out as zeros.
    """

    attend: AttentionFn
    rope: bool = False
    multiple: int = 1

    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Attend on ``[batch, length, heads, head_dim]``."""
        padding = ((0, 0), (-query.shape[1] % self.multiple, 0), (0, 0), (0, 0))
        query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
        if self.rope:
            query, key = _rotate(query), _rotate(key)
        return self.attend(query, key, value)[:, padding[1][0] :]


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
        out = linformer_attention(query, key, value, projection=projection)
        return Dense(x.shape[-1], dtype=self.dtype, name="out")(out.reshape(*x.shape[:2], -1))


def _rotate(x: Array) -> Array:
    if x.shape[-1] % 2:
        raise InputError(f"rotary positions turn pairs: head_dim must be even, got {x.shape[-1]}")
    return rotate(x)
