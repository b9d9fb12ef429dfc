"""Calibration against values by hand, a plain loop, and what holds at the best temperature."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax, softmax

from cxv_jax import calibration, plots
from cxv_jax.calibration import Reliability, fit_temperature


def drawn(number: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are right as often as ``softmax(logits / temperature)`` says."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (number, 4)).astype(np.float32)
    return logits, (logits / temperature + draw.gumbel(size=logits.shape)).argmax(-1)


def test_the_error_of_five_images_by_hand() -> None:
    """Bins of 1/15: 0.6 in the 9th (0.533, 0.6], 0.62 in the 10th, 0.95 twice, 0.5 in the 8th."""
    sure, right = np.array([0.6, 0.62, 0.95, 0.95, 0.5001]), np.array([1, 0, 1, 0, 1])
    logits = np.log(np.stack([sure, 1 - sure], -1))
    found = Reliability.of(logits, 1 - right)
    assert found.counts.nonzero()[0].tolist() == [7, 8, 9, 14]
    by_hand = (0.4 + 0.62 + 2 * abs(0.5 - 0.95) + (1 - 0.5001)) / 5
    assert found.error == pytest.approx(by_hand)
    assert found.accuracy[14] == 0.5
    assert math.isnan(found.accuracy[0])


def test_the_error_is_that_of_a_plain_loop() -> None:
    logits, labels = drawn(500, 2.0)
    probabilities = softmax(logits.astype(float), -1)
    sure, right, error = probabilities.max(-1), probabilities.argmax(-1) == labels, 0.0
    for k in range(15):
        inside = (sure > k / 15) & (sure <= (k + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert Reliability.of(logits, labels).error == pytest.approx(error)


def test_the_temperature_that_made_the_labels_is_found_and_mends_the_error() -> None:
    logits, labels = drawn(20_000, 2.5)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(2.5, rel=0.03)
    # Where the derivative is 0: the label's logit is on average the expected one.
    scaled = logits.astype(float)
    expected = (softmax(scaled / found, -1) * scaled).sum(-1).mean()
    assert scaled[np.arange(len(labels)), labels].mean() == pytest.approx(expected, abs=1e-3)
    before, after = (Reliability.of(logits, labels, t).error for t in (1.0, found))
    assert after < 0.01 < 0.1 < before
    loss = -log_softmax(scaled / found, -1)[np.arange(len(labels)), labels].mean()
    assert calibration.mean_loss(logits, labels, found) == pytest.approx(loss)


def test_without_a_best_temperature_there_is_none() -> None:
    logits, _ = drawn(9, 1.0)
    assert fit_temperature(logits, logits.argmax(-1)) is None  # All right: the surer, the better.
    assert fit_temperature(logits[:0], np.zeros(0, int)) is None
    assert math.isnan(Reliability.of(logits[:0], np.zeros(0, int)).error)
    assert math.isnan(calibration.mean_loss(logits[:0], np.zeros(0, int)))


def test_the_picture_shows_both_curves(tmp_path: Path) -> None:
    logits, labels = drawn(100, 2.0)
    curves = {name: Reliability.of(logits, labels, t) for name, t in (("a", 1.0), ("$5", 2.0))}
    plots.reliability(curves, tmp_path / "r.png", title="$x: top-1")
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (650, 702)
