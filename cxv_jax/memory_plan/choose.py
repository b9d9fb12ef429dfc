"""Which size fits a budget, and which of several plans to take: arithmetic only."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cxv_jax.errors import InputError

GB = 1e9  # Bytes.
PROBE = 8  # The second size to try, in smallest sizes.
MARGIN = 1.1  # A size predicted to need so much of the budget is tried all the same.
ENOUGH = 16  # Images of a micro-batch: for more, no work is done twice.


class Plan(NamedTuple):
    """One way to run the train step, and what one device then holds.

    Attributes:
      dtype: of products and convolutions.
      remat: what is computed twice instead of kept: ``none``, ``attention`` or ``block``.
      micro_batch: images of one pass: the most that fit, or 1 a device if none do.
      predicted: bytes, by the line through smaller micro-batches.
      peak: bytes, by XLA for the compiled step.
    """

    dtype: str
    remat: str
    micro_batch: int
    predicted: float
    peak: float


def fit(
    peak_of: Callable[[int], float], sizes: Sequence[int], budget: float
) -> tuple[int, float, float]:
    """The largest size whose peak is within the budget, from as few peaks as possible.

    The largest size, which is the whole and a program of its own, is tried first, then two small
    ones. The line through the two nearest known parts predicts the others; the largest that it lets
    fit (within 10 %) is tried next, until that is a known one.

    Args:
      peak_of: what a size needs: about linear, and slow to tell.
      sizes: ascending.
      budget: in the unit of the peaks.

    Returns:
      ``(size, predicted peak, peak)``; the smallest size if not even that one fits. The sizes tried
      first have no other prediction than their peak.

    Example:
      >>> fit(lambda size: 100.0 + 10.0 * size, [1, 2, 4, 8, 16, 32, 64], 500.0)
      (32, 420.0, 420.0)
    """
    *parts, whole = sizes
    peak = peak_of(whole)
    if peak <= budget or not parts:
        return whole, peak, peak
    return min(_largest_part(peak_of, parts, budget), (whole, peak, peak), key=lambda fit: fit[2])


def _largest_part(
    peak_of: Callable[[int], float], sizes: Sequence[int], budget: float
) -> tuple[int, float, float]:
    smallest = sizes[0]
    known = {smallest: peak_of(smallest)}
    if known[smallest] > budget or len(sizes) == 1:
        return smallest, known[smallest], known[smallest]
    second = min(sizes[1:], key=lambda size: abs(size - PROBE * smallest))
    known[second] = peak_of(second)
    predicted = dict(known)
    while True:
        guesses = {size: known[size] if size in known else _line(known, size) for size in sizes}
        margin = {size: 1.0 if size in known else MARGIN for size in sizes}
        best = max(size for size in sizes if guesses[size] <= margin[size] * budget)
        if best in known:
            return best, predicted[best], known[best]
        predicted[best], known[best] = guesses[best], peak_of(best)


def recommend(plans: Sequence[Plan], budget: float, rates: Mapping[Plan, float]) -> Plan:
    """The fastest of the plans that fit.

    Where none was timed: the first whose micro-batch has 16 images, else that with the largest.

    Args:
      plans: from the least to the most recomputation.
      budget: bytes of one device.
      rates: images/s of those that were timed.

    Raises:
      InputError: if none fits, naming the smallest need.
    """
    fitting = [plan for plan in plans if plan.peak <= budget]
    if not fitting:
        least = min(plans, key=lambda plan: plan.peak)
        raise InputError(
            f"memory_gb={budget / GB:g} is too little: training needs at least "
            f"{rounded_up(least.peak)} GB a device (dtype={least.dtype}, remat={least.remat}, "
            f"micro_batch={least.micro_batch})"
        )
    if timed := [plan for plan in fitting if plan in rates]:
        return max(timed, key=lambda plan: rates[plan])
    most = max(plan.micro_batch for plan in fitting)
    return next(plan for plan in fitting if plan.micro_batch >= min(ENOUGH, most))


def rounded_up(size: float) -> str:
    """Bytes as GB with three digits, never less than they are: so much memory is enough.

    Example:
      >>> rounded_up(1_230_000_001)
      '1.24'
    """
    step = 10.0 ** (math.floor(math.log10(size / GB)) - 2)
    return f"{math.ceil(size / GB / step) * step:.3g}"


def _line(known: Mapping[int, float], size: int) -> float:
    """At ``size``, the line through the two nearest known points."""
    (x0, y0), (x1, y1) = sorted(known.items(), key=lambda point: abs(point[0] - size))[:2]
    return y0 + (y1 - y0) * (size - x0) / (x1 - x0)
