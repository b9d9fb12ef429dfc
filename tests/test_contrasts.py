"""Statistics of contrasts against scipy's own tests and published examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from experiments.compare import arms, contrasts, page
from experiments.compare.contrasts import Cell
from experiments.compare.rows import COLUMNS

# Thirteen trials of the BCG vaccine (Colditz et al. 1994): cases and others, treated and control.
BCG = """
4 119 11 128, 6 300 29 274, 3 228 11 209, 62 13536 248 12619, 33 5036 47 5761, 180 1361 372 1079,
8 2537 10 619, 505 87886 499 87892, 29 7470 45 7232, 17 1699 65 1600, 186 50448 141 27197,
5 2493 3 2338, 27 16886 29 17825
"""


def test_the_random_effects_mean_is_that_of_the_bcg_trials() -> None:
    """As published for metafor: method="DL" of its dat.bcg, log risk ratios."""
    found = []
    for trial in BCG.split(","):
        a, b, c, d = map(float, trial.split())
        ratio = np.log(a / (a + b)) - np.log(c / (c + d))
        error = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
        found.append(Cell("", ratio, error, 0, 0, 0, 2))
    mean = contrasts.overall(found)
    np.testing.assert_allclose((mean.mean, mean.between**2), (-0.7141, 0.3088), atol=5e-5)
    # Published for the normal interval: -1.0644 to -0.3638. Ours is no narrower.
    error = (-0.3638 + 1.0644) / 2 / stats.norm.ppf(0.975)
    assert (mean.high - mean.low) / 2 >= stats.t.ppf(0.975, 12) * error * 0.9999


def test_systems_known_alike_are_scipys_t_test_over_systems() -> None:
    means = [0.0, 4.0, 5.0, 1.0]
    got = contrasts.overall([Cell("", mean, 1.0, 0, 0, 0, 2) for mean in means])
    want = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    np.testing.assert_allclose(got[1:], (*want, np.sqrt(np.var(means, ddof=1) - 1)))
    alike = contrasts.overall([Cell("", mean, 10.0, 0, 0, 0, 2) for mean in means])
    np.testing.assert_allclose(alike.high, 2.5 + stats.t.ppf(0.975, 3) * 10 / 2)


def test_a_random_effects_mean_by_hand() -> None:
    """Two systems, 0 and 4 with errors 1: Q = 8, scale 1, so τ² = 7."""
    mean = contrasts.overall([Cell("a", 0, 1, 0, 0, 0, 2), Cell("b", 4, 1, 0, 0, 0, 2)])
    assert mean.mean == pytest.approx(2)
    assert mean.between == pytest.approx(np.sqrt(7))
    assert contrasts.overall([Cell("a", 1, 3, -2, 4, 0, 2)]) == (1, -2, 4, 0)


def test_a_cell_is_scipys_paired_t_test() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(2, 7))
    got = contrasts.cell("a", list(one - two), 1e-6)
    want = stats.ttest_rel(one, two)
    interval = want.confidence_interval(0.95)
    np.testing.assert_allclose(got[1], (one - two).mean())
    np.testing.assert_allclose(got[3:6], (interval.low, interval.high, want.pvalue))


def test_seeds_that_differ_alike_are_known_to_whole_images_only() -> None:
    got = contrasts.cell("a", [0.5, 0.5, 0.5], 0.5)
    assert got.error == pytest.approx(0.5 / np.sqrt(36))
    assert 0 < got.p < 0.05


def test_holms_correction_of_an_example_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04, which is no less than the one before."""
    assert contrasts.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert contrasts.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((-0.29, 0.3), "no difference"),
        ((0.1, 0.2), "no difference"),
        ((0.1, 0.4), "better"),
        ((-0.4, -0.1), "worse"),
        ((-0.1, 0.4), "open"),
    ],
)
def test_verdicts(interval: tuple[float, float], said: str) -> None:
    assert contrasts.verdict(*interval, 0.3) == said


def rows(top1: dict[tuple[str, int, str], float]) -> list[dict[str, Any]]:
    made = []
    for (system, seed, arm), value in top1.items():
        row = dict.fromkeys(COLUMNS) | {"system": system, "seed": seed, "arm": arm, "model": "x"}
        row |= {"status": "finished", "last_test_top1": value, "test_top1": value + 0.01}
        row |= {"date": "2026", "device": "d", "versions": {}, "test_count": 1000}
        made.append(row)
    return made


CONFIG: dict[str, Any] = {
    "systems": {"s": {"name": "x"}, "t": {"name": "x"}},
    "arms": {"E": {"phase2": {"epochs": 1}}, "C": {}},
    "contrasts": {"other": ("C", "E"), "first": ("E", "C")},
    "primary": ("first",),
    "equivalence": 0.3,
}


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    from experiments.configs import compare_handoff

    config = compare_handoff.get_config("digits")
    config.update_from_flattened_dict({})
    config.systems = ConfigDict(CONFIG["systems"])
    config.arms, config.contrasts = ConfigDict(CONFIG["arms"]), ConfigDict(CONFIG["contrasts"])
    config.primary = CONFIG["primary"]
    top1 = {("s", i, arm): 0.5 + 0.02 * (arm == "E") + 0.001 * i for i in (0, 1) for arm in "EC"}
    top1 |= {("t", i, "E"): 0.7 for i in (0, 1)} | {("t", 0, "C"): 0.6}  # One pair is no cell.
    found = rows(top1)
    page.write_page(tmp_path, config, found, "the command")
    text = (tmp_path / "report.md").read_text()
    assert "- **E - C** (first): +2.00 (" in text
    assert "over 1 systems, 2 pairs: **better**." in text
    assert text.index("| first | E - C |") < text.index("| other | C - E | -2.00")
    assert "| E | 52.05 ± 0.07 (2) | 70.00 ± 0.00 (2) |" in text
    assert "| E | 53.05 ± 0.07 (2) |" in text  # Selected weights have a table of their own.
    assert (tmp_path / arms.PICTURE).read_bytes().startswith(b"\x89PNG")
    page.write_page(tmp_path, config, found[:1], "the command")
    assert not (tmp_path / arms.PICTURE).exists()
