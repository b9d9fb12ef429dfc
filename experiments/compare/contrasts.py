"""What two arms differ by: paired by seed in each system, then over all systems."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.compare.rows import Rows

LEVEL = 0.95


class Cell(NamedTuple):
    """One system: mean difference over ``seeds``, its standard error, interval, p of no difference.

    ``holm`` is p after Holm's correction for the number of systems.
    """

    system: str
    mean: float
    error: float
    low: float
    high: float
    p: float
    seeds: int
    holm: float = 1.0


class Overall(NamedTuple):
    """Mean over systems, its interval, and the deviation between systems beyond chance."""

    mean: float
    low: float
    high: float
    between: float


def differences(rows: Rows, arm: str, other: str, field: str) -> dict[str, list[float]]:
    """``arm`` minus ``other`` of the same seed, in percentage points, by system."""
    known = {(r["system"], r["seed"], r["arm"]): r[field] for r in rows if r[field] is not None}
    found: dict[str, list[float]] = {}
    for (system, seed, label), value in known.items():
        if label == arm and (system, seed, other) in known:
            found.setdefault(system, []).append(100 * (value - known[system, seed, other]))
    return found


def cell(system: str, values: Sequence[float], resolution: float) -> Cell:
    """Student's interval of paired differences ``d``: ``mean ± t(n - 1) s / sqrt(n)``.

    Args:
      system: its name.
      values: at least two.
      resolution: points that one test image is worth. Few seeds may differ by the same by chance:
        ``s`` is at least what rounding to whole images causes, ``resolution / sqrt(12)``.
    """
    n, mean = len(values), float(np.mean(values))
    error = max(float(np.std(values, ddof=1)), resolution / math.sqrt(12)) / math.sqrt(n)
    low, high = stats.t.interval(LEVEL, n - 1, loc=mean, scale=error)
    p = 2 * stats.t.sf(abs(mean) / error, n - 1)
    return Cell(system, mean, error, float(low), float(high), float(p), n)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p: the k-th smallest of n times ``n - k + 1``, none below a smaller one's.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    ordered = np.sort(ps)
    adjusted = np.maximum.accumulate(ordered * np.arange(len(ps), 0, -1)).clip(max=1)
    return [float(adjusted[rank]) for rank in np.argsort(np.argsort(ps))]


def cells(rows: Rows, arm: str, other: str, field: str, resolution: float) -> list[Cell]:
    """A cell for every system with two seeds or more."""
    found = differences(rows, arm, other, field)
    made = [cell(name, values, resolution) for name, values in found.items() if len(values) > 1]
    adjusted = holm([each.p for each in made])
    return [each._replace(holm=p) for each, p in zip(made, adjusted, strict=True)]


def overall(found: Sequence[Cell]) -> Overall:
    """The random-effects mean: systems are a sample of those that there could be.

    ``w = 1 / e^2``; ``Q = Σ w (d - Σ w d / Σ w)^2``; variance between systems
    ``τ^2 = max(0, (Q - k + 1) / (Σ w - Σ w^2 / Σ w))``; the mean ``m`` is weighted by
    ``v = 1 / (e^2 + τ^2)``. Its interval is Student's with ``k - 1`` degrees of freedom and the
    error ``sqrt(max(1, Σ v (d - m)^2 / (k - 1)) / Σ v)``: errors from few seeds are themselves
    uncertain, and a normal interval would be too narrow. One system has its own interval.

    Source: DerSimonian & Laird 1986, Controlled Clinical Trials 7; the interval: Knapp & Hartung
    2003, Statistics in Medicine 22, never below the plain one (Röver et al. 2015, BMC Medical
    Research Methodology 15).
    """
    if len(found) == 1:
        return Overall(found[0].mean, found[0].low, found[0].high, 0.0)
    values = np.array([each.mean for each in found])
    variances = np.array([each.error**2 for each in found])
    weights = 1 / variances
    fixed = np.average(values, weights=weights)
    excess = (weights * (values - fixed) ** 2).sum() - (len(found) - 1)
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    between = max(0.0, excess / scale)
    weights = 1 / (variances + between)
    mean = float(np.average(values, weights=weights))
    beyond = (weights * (values - mean) ** 2).sum() / (len(found) - 1)
    error = math.sqrt(max(1.0, beyond) / weights.sum())
    low, high = stats.t.interval(LEVEL, len(found) - 1, loc=mean, scale=error)
    return Overall(mean, float(low), float(high), math.sqrt(between))


def verdict(low: float, high: float, equal: float) -> str:
    """What an interval of a difference says, where within ``equal`` points nothing differs."""
    if max(abs(low), abs(high)) <= equal:
        return "no difference"
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "open"
