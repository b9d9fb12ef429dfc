"""Pixels of more than 8 bits: which value is white, by one rule for all sources and whole sets."""

import logging
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from cxv_jax.errors import InputError

WHITES = {"f": (1, 255), "i": (255, 1023, 4095, 16383, 65535)}  # Of floats; of integers.


class Extent(NamedTuple):
    """Smallest and largest value of some pixels, and ``f`` for floats or ``i`` for integers."""

    low: float
    high: float
    kind: str

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Extent":
        """Of pixels that are all finite.

        Raises:
          InputError: for NaN and infinite pixels.
        """
        low, high = float(pixels.min()), float(pixels.max())  # NaN wins both.
        if not np.isfinite([low, high]).all():
            raise InputError("NaN or infinite pixels")
        return cls(low, high, "f" if pixels.dtype.kind == "f" else "i")


def find_white(source: str, extents: Collection[Extent], white: float = 0.0) -> float:
    """The value that is read as 255: the smallest usual one that no pixel of the set is above.

    1 or 255 for floats; 255, or that of 10, 12, 14 or 16 bits, for integers. A new one is logged.

    Args:
      source: what the message calls the set.
      extents: of all pictures that are not uint8 already.
      white: if not 0, the value of the set that a run was trained on, which is then only checked.

    Raises:
      InputError: for values below 0 or above white, and for floats mixed with integers.
    """
    kinds = {extent.kind for extent in extents}
    if len(kinds) > 1:
        raise InputError(f"{source}: both floats and integers of more than 8 bits; store one form")
    low, high = min(e.low for e in extents), max(e.high for e in extents)
    choices = (white,) if white else WHITES[kinds.pop()]
    found = next((choice for choice in choices if high <= choice), None)
    if low < 0 or found is None:
        expected = (
            f"0 to {white:g}, as in training"
            if white
            else ("0..255, or 0..1 in floats, or integers of at most 16 bits")
        )
        raise InputError(
            f"{source} have values {low:g} to {high:g}, expected {expected}; rescale them"
        )
    if not white:
        logging.getLogger(__name__).warning(
            "%s: not 8-bit; values 0 (black) to %g (white) are scaled to 0..255, the largest is %g",
            *(source, found, high),
        )
    return found


def to_uint8(pixels: np.ndarray, white: float) -> np.ndarray:
    """``round(255 pixels / white)``, row by row: no copy in a larger type is made of the whole."""
    scaled = np.empty(pixels.shape, np.uint8)
    for row, values in zip(scaled, pixels, strict=True):
        row[...] = np.round(values * np.float64(255 / white))
    return scaled
