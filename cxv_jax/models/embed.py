"""How images become tokens, and which images a model refuses."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.layers import Conv, Dense, kernel_init


def check_images(
    images: Array, *, image_size: int | None = None, multiple: int = 1, smallest: int = 1
) -> None:
    """Refuse what a model cannot classify.

    Args:
      images: anything.
      image_size: the only side length, in pixels, that fits; None: any.
      multiple: both sides must be multiples of it.
      smallest: the smallest side that fits.

    Raises:
      InputError: (a ``ValueError``) for images that are empty, no images, or of a wrong size.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise InputError(
            f"expected non-empty images [batch, height, width, channels], got shape {images.shape}"
        )
    height, width = images.shape[1:3]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise InputError(
            f"this model was built for images of {image_size}x{image_size} pixels, got "
            f"{height}x{width}: resize them, or create the model with image_size={height}"
        )
    known = [n for n in (height, width) if isinstance(n, int)]  # Others are jax.export's symbols.
    if any(n < smallest for n in known):
        raise InputError(
            f"images of {height}x{width} pixels are too small for this model: each side needs at "
            f"least {smallest} pixels; resize them"
        )
    if any(n % multiple for n in known):
        raise InputError(
            f"images of {height}x{width} pixels cannot be cut into patches of "
            f"{multiple}x{multiple}: resize them or change patch_size"
        )


def as_features(model: nn.Module, x: Array) -> Array:
    """``x`` as the model's features: kept where ``intermediates`` are asked for.

    A variable ``features`` of the collection ``perturbations``, if it is given, is added: what the
    logits' gradient with respect to the features needs.
    """
    model.sow("intermediates", "features", x)
    if model.has_variable("perturbations", "features"):
        x = x + model.get_variable("perturbations", "features")
    return x


class PatchEmbed(nn.Module):
    """Cut squares of ``patch_size`` pixels and project each: one token a square."""

    patch_size: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens features"]:
        """Apply to ``[batch, height, width, channels]``; tokens in raster order."""
        batch, height, width, channels = images.shape
        p = self.patch_size
        rows, columns = height // p, width // p
        # One axis at a time: more at once, and JAX asks for the shardings on an Explicit mesh.
        x = images.reshape(batch, rows, p, width, channels)
        x = x.reshape(batch, rows, p, columns, p, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, -1).reshape(batch, rows * columns, -1)
        return Dense(self.features, dtype=self.dtype, name="patches")(x)


class ConvEmbed(nn.Module):
    """Convolutions one after the other, each followed by ``then``: one token a pixel of the map."""

    features: Sequence[int]
    strides: Sequence[int]
    kernel_size: int = 3
    padding: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = kernel_init
    then: Callable[[Array], Array] = lambda x: x
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens features"]:
        """Apply to ``[batch, height, width, channels]``; tokens in raster order."""
        x = images
        for i, (width, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            conv = Conv(
                width,
                self.kernel_size,
                stride,
                self.padding,
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            x = self.then(conv(x))
        return x.reshape(x.shape[0], -1, x.shape[-1])  # [batch, height * width, features]


def vix_embed(
    hybrid: bool,
    patch_size: int,
    embed_dim: int,
    stem_dims: Sequence[int],
    stem_strides: Sequence[int],
    dtype: Any,
) -> nn.Module:
    """Patches, or (``hybrid``) three 3x3 convolutions with nothing between them."""
    if not hybrid:
        return PatchEmbed(patch_size, embed_dim, dtype, name="embed")
    if patch_size != 1:
        raise InputError(
            f"hybrid models embed by convolutions: patch_size must be 1, got {patch_size}; "
            "use stem_strides for fewer tokens"
        )
    if len(stem_strides) != len(stem_dims) + 1:
        raise InputError(
            f"stem_strides needs {len(stem_dims) + 1} entries, one for each of stem_dims and one "
            f"for embed_dim, got {tuple(stem_strides)}"
        )
    return ConvEmbed((*stem_dims, embed_dim), stem_strides, dtype=dtype, name="embed")
