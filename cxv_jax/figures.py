"""Figures of a confusion matrix that unbalanced classes do not flatter, and how sure they are."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cxv_jax.errors import InputError

Z95 = 1.959963984540054  # The normal distribution's quantile of 0.975.


class ClassFigures(NamedTuple):
    """What a confusion matrix says of every class, as fractions; NaN where it says nothing.

    ``recall_c = n_cc / Σ_j n_cj``, NaN for a class without images; ``precision_c = n_cc / Σ_i
    n_ic``, NaN for one that was never predicted; ``f1_c = 2 n_cc / (Σ_j n_cj + Σ_i n_ic)``, NaN
    for one without images. The means below leave out classes without images, as scikit-learn's
    ``balanced_accuracy_score`` does.
    """

    counts: Int[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    precision: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]

    @classmethod
    def of(cls, confusion: Int[np.ndarray, "classes classes"]) -> "ClassFigures":
        """From ``confusion[i, j]``, the images of class ``i`` that were taken for class ``j``."""
        hits, counts, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        f1 = np.where(counts > 0, _ratio(2 * hits, counts + predicted), np.nan)
        return cls(counts, _ratio(hits, counts), _ratio(hits, predicted), f1)

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall; NaN without any image."""
        return mean_known(self.recall)

    @property
    def macro_f1(self) -> float:
        """The mean F1; NaN without any image."""
        return mean_known(self.f1)


def auroc(
    scores: Float[np.ndarray, "image classes"], labels: Int[np.ndarray, " image"]
) -> Float[np.ndarray, " classes"]:
    """The area under each class's curve against the rest: of 1 the class is told apart, of ½ not.

    The share of pairs of an image of the class and another one in which the first has the higher
    score, ties counting half: ``(Σ_{y=c} rank - n_c (n_c + 1) / 2) / (n_c (n - n_c))``. NaN where
    the class has no image, or all.
    """
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0) if len(labels) else np.zeros_like(scores)
    own = labels[:, None] == np.arange(scores.shape[1])
    n = own.sum(0)
    return _ratio((ranks * own).sum(0) - n * (n + 1) / 2, n * (len(labels) - n))


def balanced_weights(counts: Int[np.ndarray, " classes"]) -> tuple[float, ...]:
    """``n / (classes n_c)``: every class weighs the same in all; 0 for a class without images.

    As scikit-learn's ``compute_class_weight("balanced")``, over the classes that have images.

    Example:
      >>> balanced_weights(np.array([30, 10]))
      (0.6666666666666666, 2.0)
    """
    present = max(int((counts > 0).sum()), 1)
    return tuple(float(counts.sum() / (present * n)) if n else 0.0 for n in counts)


def told_weights(told: str, class_names: Sequence[str]) -> tuple[float, ...]:
    """The weights of classes as a user tells them: ``1,1,2.5``.

    Raises:
      InputError: there is not one for each class.
    """
    weights = tuple(map(float, told.split(",")))
    if len(weights) != len(class_names):
        raise InputError(
            f"config.class_weights has {len(weights)} numbers, expected {len(class_names)}, for "
            f"{', '.join(class_names)}"
        )
    return weights


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` images, in 0..1.

    ``(p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)`` (Wilson 1927, "Probable
    inference, the law of succession, and statistical inference", JASA 22:209-212). It stays within
    0..1 and tells something even where all images are right.
    """
    if not count:
        return 0.0, 1.0
    square = Z95**2 / count
    half = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = (share + square / 2 - half), (share + square / 2 + half)
    return max(low / (1 + square), 0.0), min(high / (1 + square), 1.0)


def bootstrap(
    confusion: Int[np.ndarray, "classes classes"], figure: Callable[[ClassFigures], float]
) -> tuple[float, float]:
    """The 95 % interval of a figure over images drawn anew from those there are.

    2,000 times as many images are drawn with replacement; between the 2.5 % and the 97.5 % quantile
    of the figures that they give (SciPy's percentile bootstrap, fixed seed). It knows nothing but
    these images: of a class of three it tells little.
    """
    from scipy import stats

    cells = np.repeat(np.arange(confusion.size), confusion.reshape(-1))

    def of(drawn: np.ndarray) -> float:
        counts = np.bincount(drawn, minlength=confusion.size)
        return figure(ClassFigures.of(counts.reshape(confusion.shape)))

    if len(cells) < 2:
        return 0.0, 1.0
    found = stats.bootstrap(
        (cells,),
        of,
        n_resamples=2000,
        batch=max(1, 10**6 // len(cells)),
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def between(share: float, count: int) -> str:
    """The interval of :func:`wilson` for a person.

    Example:
      >>> between(17 / 18, 18), between(0.9444, 10000)
      ('74 to 99 %', '94.0 to 94.9 %')
    """
    return interval(*wilson(share, count))


def interval(low: float, high: float) -> str:
    """An interval in percent, with as many digits as it is narrow.

    Example:
      >>> interval(0.7424, 0.9901)
      '74 to 99 %'
    """
    digits = 0 if high - low >= 0.05 else 1
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f} %"


def accuracy(share: float, count: int) -> str:
    """An accuracy with its interval.

    Example:
      >>> accuracy(17 / 18, 18)
      '94.44 % (18 images: 74 to 99 %)'
    """
    return f"{100 * share:.2f} % ({count:,} images: {between(share, count)})"


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def mean_known(values: Float[np.ndarray, " classes"]) -> float:
    """The mean of those that are defined; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
