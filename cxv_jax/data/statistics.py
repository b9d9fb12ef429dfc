"""What the pixels of a split are like."""

import logging
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

SAMPLE = 256  # Images looked at to tell a dark set.
DARK = 32  # No pixel of a sound set stays below this level of 255.
CHUNK = 4096  # Images read at a time: no set is ever decoded into memory as a whole.


class PixelStatistics(NamedTuple):
    """Mean and standard deviation of each channel over all pixels of all images, in 0..1."""

    mean: Float[np.ndarray, " channels"]
    std: Float[np.ndarray, " channels"]


def pixel_statistics(images: Any) -> PixelStatistics:
    """Exact moments of every channel, from the counts of the 256 levels.

    ``mean = Σ n_v v / (255 N)``, ``std² = Σ n_v (v/255 - mean)² / N`` (not the unbiased form).

    Args:
      images: uint8 ``[example, height, width, channels]``, an array or anything that gives one
        when indexed by an integer array (:class:`cxv_jax.data.splits.Split`).

    Example:
      >>> half = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
      >>> pixel_statistics(half).std.tolist()
      [0.5, 0.5, 0.5]
    """
    counts = _level_counts(images)
    levels = (np.arange(256) / 255)[None]
    number = counts.sum(1)
    mean = (counts * levels).sum(1) / number
    variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / number
    return PixelStatistics(mean, np.sqrt(variance))


def tell_odd(source: str, images: Any) -> None:
    """Log if some of the images, evenly chosen, are all of one level or nearly black."""
    if not len(images):
        return
    chosen = np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)
    pixels = np.asarray(images[chosen])
    low, high = int(pixels.min()), int(pixels.max())
    if low == high or high < DARK:
        odd = f"constant, {low}" if low == high else f"nearly black, at most {high}"
        logging.getLogger(__name__).warning(
            "%s: the pixels of %d images are %s of 255: are they what you expect?",
            *(source, len(chosen), odd),
        )


def _level_counts(images: Any) -> np.ndarray:
    """How many pixels of each channel have each level: [channels, 256]."""
    total: Any = 0
    for start in range(0, len(images), CHUNK):
        pixels = np.asarray(images[np.arange(start, min(start + CHUNK, len(images)))])
        channels = pixels.reshape(-1, pixels.shape[-1]).T
        total += np.stack([np.bincount(channel, minlength=256) for channel in channels])
    return total
