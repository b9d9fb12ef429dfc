"""Calibration: whether a network is right as often as it says it is."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Logits = Float[np.ndarray, "image classes"]
Labels = Int[np.ndarray, " image"]

BINS = 15
LEAST, MOST = 0.05, 20.0  # No temperature beyond these means anything.


class Reliability(NamedTuple):
    """Images by how sure the network is: bin ``b`` of ``B`` has confidences in ``(b/B, (b+1)/B]``.

    Confidence is the probability of the class that is taken.

    Attributes:
      counts: images of each bin.
      confidence: their mean; NaN without any.
      accuracy: the share of them that is right; likewise.
    """

    counts: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]

    @classmethod
    def of(cls, logits: Logits, labels: Labels, temperature: float = 1.0) -> "Reliability":
        """Of images whose probabilities are ``softmax(logits / temperature)``."""
        probabilities = np.exp(log_probabilities(logits, temperature))
        sure, right = probabilities.max(-1), logits.argmax(-1) == labels
        place = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(place, minlength=BINS)
        sums = (np.bincount(place, weights, BINS) for weights in (sure, right))
        with np.errstate(invalid="ignore"):
            confidence, accuracy = (total / counts for total in sums)
        return cls(counts, confidence, accuracy)

    @property
    def error(self) -> float:
        """The expected calibration error, in 0..1; NaN without an image.

        ``ECE = Σ_b n_b / n |accuracy_b - confidence_b|`` (Guo et al. 2017, arXiv 1706.04599,
        section 2).
        """
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        total = self.counts.sum()
        return float((self.counts * gaps).sum() / total) if total else math.nan


def log_probabilities(logits: Logits, temperature: float = 1.0) -> Logits:
    """``log softmax(logits / temperature)`` in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def mean_loss(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """The mean cross-entropy in nats; NaN without an image."""
    if not len(labels):
        return math.nan
    return float(-log_probabilities(logits, temperature)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Logits, labels: Labels) -> float | None:
    """The temperature with the least loss on these images (Guo et al. 2017, section 4.2).

    It changes how sure the network is and no decision. None where no finite one is best: without
    an image, or where all are right, since surer is better then without end.
    """
    from scipy.optimize import minimize_scalar

    if not len(labels) or (logits.argmax(-1) == labels).all():
        return None
    found = minimize_scalar(
        lambda log: mean_loss(logits, labels, math.exp(log)),
        bounds=(math.log(LEAST), math.log(MOST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)
