"""Colour operations in whole levels 0..255, each with the rounding of Pillow.

Brightness, colour, contrast and sharpness blend an image with a degenerate version of it
(``enhance``); posterize, solarize, autocontrast and equalize are tables of 256 levels, one per
image and channel (``look_up``). So any mixture of them over a batch is one blend and one gather.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from cxv_jax.errors import InputError

LUMA = (19595, 38470, 7471)  # ITU-R 601-2 weights of red, green, blue in 1/65536.


def normalise(
    images: Shaped[Array, "batch height width channels"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Array, "batch height width channels"]:
    """``(images / 255 - mean) / std`` in float32.

    Args:
      images: levels in 0..255, uint8 or float.
      mean: per channel, in units of full scale (0..1).
      std: per channel, in the same units.

    Returns:
      float32 images with about zero mean and unit deviation.
    """
    centre, scale = (jnp.array(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return (images.astype(jnp.float32) / 255 - centre) / scale


def enhance(
    images: UInt8[Array, "batch height width channels"],
    degenerate: Int[Array, "batch height width channels"],
    factor: Float[Array, " batch"],
) -> UInt8[Array, "batch height width channels"]:
    """``degenerate + factor · (image - degenerate)``, clipped and cut to whole levels.

    Factor 1 gives the image back exactly. As Pillow's ``ImageEnhance``.
    """
    base = degenerate.astype(jnp.float32)
    blended = base + factor[:, None, None, None] * (images.astype(jnp.float32) - base)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def grey(
    images: UInt8[Array, "batch height width channels"],
) -> Int[Array, "batch height width 1"]:
    """Luma of RGB images, rounded to whole levels; one-channel images are grey already."""
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise InputError(
            f"augment: a policy needs images of 1 or 3 channels, got {channels}; use policy 'none'"
        )
    levels = images.astype(jnp.int32)
    if channels == 1:
        return levels
    weighted = (levels * jnp.array(LUMA).reshape(1, 1, 1, 3)).sum(axis=-1, keepdims=True)
    return (weighted + 32768) >> 16


def mean_grey(grey_images: Int[Array, "batch height width 1"]) -> Int[Array, "batch 1 1 1"]:
    """Mean level of each grey image, rounded: what contrast pulls every pixel towards."""
    pixels = grey_images.shape[1] * grey_images.shape[2]
    total = grey_images.sum(axis=(1, 2, 3), keepdims=True)
    return (2 * total + pixels) // (2 * pixels)


def smooth(
    images: UInt8[Array, "batch height width channels"],
) -> Int[Array, "batch height width channels"]:
    """Pillow's SMOOTH filter, (3×3 sum + 4 × centre) / 13, which leaves the border as it is."""
    _, height, width, _ = images.shape
    levels = images.astype(jnp.int32)
    padded = jnp.pad(levels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
    interior = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    return jnp.where(interior[None, :, :, None], jnp.round(total / 13).astype(jnp.int32), levels)


def look_up(
    images: UInt8[Array, "batch height width channels"],
    tables: UInt8[Array, "batch channels 256"],
) -> UInt8[Array, "batch height width channels"]:
    """``out[b, y, x, c] = tables[b, c, images[b, y, x, c]]``."""
    batch, height, width, channels = images.shape
    levels = _by_channel(images)
    levels = jnp.take_along_axis(tables, levels, axis=-1, mode="promise_in_bounds")
    return jnp.moveaxis(levels, 1, 2).reshape(batch, height, width, channels)


def posterize_tables(bits: Int[Array, " batch"]) -> Int[Array, "batch 1 256"]:
    """Keep the upper ``bits`` bits of every level."""
    dropped = 8 - bits[:, None, None]
    return jnp.arange(256)[None, None] >> dropped << dropped


def solarize_tables(threshold: Float[Array, " batch"]) -> Int[Array, "batch 1 256"]:
    """Invert the levels at or above ``threshold``."""
    levels = jnp.arange(256)[None, None]
    return jnp.where(levels < threshold[:, None, None], levels, 255 - levels)


def autocontrast_tables(
    images: UInt8[Array, "batch height width channels"],
) -> Int[Array, "batch channels 256"]:
    """Stretch the levels in use to 0..255, each channel by itself; flat channels stay.

    ``floor(255 (level - low) / (high - low))``; Pillow is one lower at some whole quotients.
    """
    low, high = (f(axis=(1, 2)).astype(jnp.int32)[..., None] for f in (images.min, images.max))
    levels = jnp.arange(256)[None, None]
    stretched = _quotient((levels - low) * 255, high - low)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), levels)


def equalize_tables(
    images: UInt8[Array, "batch height width channels"],
) -> Int[Array, "batch channels 256"]:
    """Spread the levels so that each is used about equally often, each channel by itself."""
    levels = _by_channel(images)
    counts = jax.vmap(jax.vmap(lambda level: jnp.zeros(256, jnp.int32).at[level].add(1)))(levels)
    brightest = images.max(axis=(1, 2)).astype(jnp.int32)[..., None]
    step = (levels.shape[-1] - jnp.take_along_axis(counts, brightest, axis=-1)) // 255
    darker = jnp.cumsum(counts, axis=-1) - counts
    equalized = jnp.minimum(_quotient(step // 2 + darker, step), 255)
    return jnp.where(step > 0, equalized, jnp.arange(256)[None, None])


def _quotient(dividend, divisor):
    """Whole quotients up to 256, exact for divisors below 8000; CPUs divide floats far faster."""
    return jnp.floor((dividend + 0.5) / jnp.maximum(divisor, 1)).astype(jnp.int32)


def _by_channel(images):
    """Levels as [batch, channels, pixels], the layout of the tables."""
    batch, _, _, channels = images.shape
    return jnp.moveaxis(images.reshape(batch, -1, channels), 1, 2).astype(jnp.int32)
