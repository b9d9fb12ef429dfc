"""Figures of unbalanced classes against scikit-learn, intervals against SciPy."""

import math

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import binom, binomtest
from sklearn.utils.class_weight import compute_class_weight

from cxv_jax import figures
from cxv_jax.evaluation import Evaluation
from cxv_jax.figures import ClassFigures

CLASSES = np.arange(6)


def guesses(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions; class 3 has no image, class 5 is never predicted."""
    draw = np.random.default_rng(seed)
    labels = draw.choice([0, 1, 2, 4, 5], 80, p=[0.6, 0.2, 0.1, 0.06, 0.04])
    labels[:5] = [0, 1, 2, 4, 5]
    wrong = draw.integers(0, 5, 80)
    return labels, np.where((draw.random(80) < 0.6) & (labels < 5), labels, wrong)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    labels, predicted = guesses(seed)
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=CLASSES)
    found = ClassFigures.of(confusion)
    expected = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=CLASSES, zero_division=np.nan
    )
    np.testing.assert_allclose(found.precision, expected[0])
    np.testing.assert_allclose(found.recall, expected[1])
    present = CLASSES != 3
    np.testing.assert_allclose(found.f1[present], expected[2][present])
    np.testing.assert_array_equal(found.counts, expected[3])
    assert math.isnan(found.recall[3])
    assert math.isnan(found.f1[3])
    assert math.isnan(found.precision[5])
    both = np.isin(predicted, labels)  # scikit-learn warns of classes without an image.
    assert found.macro_f1 == pytest.approx(
        sklearn.metrics.f1_score(
            labels, predicted, labels=CLASSES[present], average="macro", zero_division=0
        )
    )
    recalls = [(predicted[labels == c] == c).mean() for c in CLASSES[present]]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    if both.all():
        assert found.balanced_accuracy == pytest.approx(
            sklearn.metrics.balanced_accuracy_score(labels, predicted)
        )


def test_who_always_says_the_largest_class_is_not_flattered() -> None:
    confusion = np.array([[207, 0, 0], [88, 0, 0], [33, 0, 0]])
    found = ClassFigures.of(confusion)
    assert found.balanced_accuracy == pytest.approx(1 / 3)
    assert found.macro_f1 == pytest.approx(2 * 207 / (207 + 328) / 3)
    assert np.isnan(found.precision).tolist() == [False, True, True]


def test_without_images_nothing_is_claimed() -> None:
    found = ClassFigures.of(np.zeros((2, 2), int))
    assert math.isnan(found.balanced_accuracy)
    assert math.isnan(found.macro_f1)


def test_class_records_leave_open_what_is_not_defined() -> None:
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    labels = np.array([0, 0, 0, 0, 2, 2])
    logits = np.log([[4, 1, 2], [3, 2, 1], [2, 1, 1], [1, 2, 2], [4, 2, 3], [6, 1, 3]])
    rows = Evaluation(6, 0.5, 1.0, 1.0, confusion, labels, logits).class_records(["a", "b", "c"])
    # Of a: 4/7 and 1/2 twice beat 4/9 and not 6/10, 1/5 neither; of c: all but 2/5 are beaten.
    assert [row.to_json() for row in rows] == [
        dict(name="a", count=4, hits=3, precision=0.6, recall=0.75, auroc=0.375),
        dict(name="b", count=0, hits=0, precision=0.0, recall=None, auroc=None),
        dict(name="c", count=2, hits=0, precision=None, recall=0.0, auroc=0.75),
    ]


def test_areas_under_the_curve_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 60)
    scores = np.round(draw.random((60, 5)) + np.eye(5)[labels] / 2, 1)  # Rounded: with ties.
    found = figures.auroc(scores, labels)
    expected = [sklearn.metrics.roc_auc_score(labels == c, scores[:, c]) for c in range(3)]
    np.testing.assert_allclose(found[:3], expected)
    assert np.isnan(found[3:]).all()  # No image of these.
    assert np.isnan(figures.auroc(scores[labels == 1], labels[labels == 1])).all()
    assert np.isnan(figures.auroc(scores[:0], labels[:0])).all()


def test_the_bootstrap_of_accuracy_is_the_binomial_s() -> None:
    """Images drawn anew are right with the share of those that are: k of n, over n."""
    confusion = np.array([[50, 10], [5, 35]])
    low, high = figures.bootstrap(confusion, lambda of: float((of.counts * of.recall).sum() / 100))
    assert (low, high) == pytest.approx(np.array(binom(100, 0.85).interval(0.95)) / 100, abs=0.011)
    assert figures.bootstrap(np.eye(1, dtype=int), lambda of: 1.0) == (0.0, 1.0)


def test_the_bootstrap_of_balanced_accuracy_has_the_closed_form_s_width() -> None:
    """``Var = Σ_c r_c (1 - r_c) / n_c / C²`` for many images."""
    confusion = np.array([[360, 40], [60, 140]])
    low, high = figures.bootstrap(confusion, lambda of: of.balanced_accuracy)
    variance = (0.9 * 0.1 / 400 + 0.7 * 0.3 / 200) / 4
    assert (low + high) / 2 == pytest.approx(0.8, abs=0.005)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.1)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2, 4], [207, 88, 33, 3])
    weights = figures.balanced_weights(np.bincount(labels, minlength=6))
    present = [0, 1, 2, 4]
    expected = compute_class_weight("balanced", classes=np.array(present), y=labels)
    np.testing.assert_allclose([weights[c] for c in present], expected)
    assert (weights[3], weights[5]) == (0, 0)


@pytest.mark.parametrize(("hits", "count"), [(17, 18), (0, 5), (5, 5), (1, 2), (9444, 10000)])
def test_the_interval_is_that_of_scipy(hits: int, count: int) -> None:
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert figures.wilson(hits / count, count) == pytest.approx((expected.low, expected.high))


def test_of_no_image_everything_is_possible() -> None:
    assert figures.accuracy(0.0, 0) == "0.00 % (0 images: 0 to 100 %)"


def test_narrow_intervals_have_a_digit_more() -> None:
    assert figures.accuracy(17 / 18, 18) == "94.44 % (18 images: 74 to 99 %)"
    assert figures.accuracy(0.9444, 10000) == "94.44 % (10,000 images: 94.0 to 94.9 %)"
