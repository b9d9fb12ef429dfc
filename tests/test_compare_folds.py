"""Cross-validation in a report: the folds' test images together, against scikit-learn."""

import csv
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from absl import flags
from ml_collections import ConfigDict

from cxv_jax.config import base
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError
from cxv_jax.records import ClassRecord, PhaseSummary, Summary
from experiments.compare import folds, processes, schedule
from experiments.compare import rows as rows_module
from experiments.compare.carry_out import carry_out
from experiments.configs.comparison import in_folds
from tests.test_compare import in_process

TINY = {"embed_dim": 4, "depth": 1, "num_heads": 1, "head_dim": 4}
CLASSES = ["a", "b|c", "d"]


def row(fold: int, confusion: list[list[int]]) -> dict[str, Any]:
    """What a report knows of a fold with this confusion matrix."""
    right = float(np.trace(confusion) / np.sum(confusion))
    phase = PhaseSummary(1, None, right, 1.0, test_balanced_accuracy=right, test_macro_f1=right)
    fields: dict[str, Any] = dict(parameters=1, images_per_second=1.0, seconds=1.0, device="x")
    fields |= dict(peak_memory_bytes=1, peak_memory_of="process", config={}, date="d")
    fields |= dict(workdir="", dataset="", model="m", selection="last", confusion=confusion)
    per_class = [ClassRecord(name, 0, 0, None, None) for name in CLASSES]
    summary = Summary(
        **fields, test_top1=right, test_top5=1.0, phases={"phase1": phase}, per_class=per_class
    )
    return rows_module.row_of(("ours", fold, False), "m", summary, "", {})


def config_of(number: int, source: str = "digits") -> ConfigDict:
    recipe = base("cltv", source)
    recipe.model.update(TINY)
    recipe.update(batch_size=8, selection="last")
    recipe.phase1.epochs, recipe.phase2.epochs = 1, 0
    recipe.data.val_fraction = 0.0
    return in_folds(recipe, number)


def test_folds_are_pooled_and_a_guess_stands_beside(tmp_path: Path) -> None:
    parts = [[[30, 2, 0], [4, 9, 1], [1, 0, 0]], [[28, 3, 1], [2, 10, 2], [0, 1, 1]]]
    rows = [
        row(0, parts[0]),
        row(1, parts[1]),
        rows_module.row_of(("ours", 2, False), "m", None, "", {}),
    ]
    (ours,) = folds.pooled(rows)
    truth, guess = (np.repeat(x.ravel(), np.sum(parts, 0).ravel()) for x in np.indices((3, 3)))
    assert (ours.images, ours.folds) == (95, 2)
    assert ours.accuracy == sklearn.metrics.accuracy_score(truth, guess)
    lines = folds.section(config_of(3), rows, tmp_path)
    balanced = 100 * sklearn.metrics.balanced_accuracy_score(truth, guess)
    f1 = 100 * sklearn.metrics.f1_score(truth, guess, average="macro")
    cells = lines[3].strip("| ").split(" | ")
    assert cells[:2] == ["ours", "95"]
    assert [cell.split()[0] for cell in cells[2:5]] == [
        f"{82.105:.1f}",
        f"{balanced:.1f}",
        f"{f1:.1f}",
    ]
    accuracies = [100 * np.trace(p) / np.sum(p) for p in parts]
    assert cells[5] == f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"
    always = lines[4].strip("| ").split(" | ")
    assert [cell.split()[0] for cell in always[1:5]] == ["95", "67.4", "33.3", "26.8"]
    assert always[0] == "always a"
    assert "| b\\|c | 6 | 19 | 3 | 28 | 76.0 | 67.9 |" in lines
    assert (tmp_path / "confusion_ours.png").read_bytes().startswith(b"\x89PNG")
    said = folds.told(config_of(3), rows)
    assert said[0].startswith("ours: 95 images of 2 folds, accuracy 82.11 % (73 to 89 %), balanced")
    assert len(said) == 2


def test_every_image_of_a_set_is_tested_once(tmp_path: Path) -> None:
    draw, labels = np.random.default_rng(0), np.repeat([0, 1, 2], [20, 8, 3])
    images = draw.integers(0, 256, (31, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels, class_names=CLASSES)
    config = config_of(2, f"npz:{tmp_path}/a.npz")
    said: list[str] = []
    assert carry_out(config, tmp_path / "work", in_process(), say=said.append)
    assert said[-1].startswith("always a: 31 images of 2 folds, accuracy 64.52 %")
    summaries = [json.loads(p.read_text()) for p in tmp_path.glob("work/runs/*/summary.json")]
    tested = [
        json.loads(p.read_text())["names"]["test"] for p in tmp_path.glob("work/runs/*/data.json")
    ]
    assert sorted(name for names in tested for name in names) == sorted(
        f"train/{i}" for i in range(31)
    )
    assert np.sum([s["confusion"] for s in summaries], axis=(0, 2)).tolist() == [20, 8, 3]
    with (tmp_path / "work" / "results.csv").open() as file:
        found = [float(r["test_balanced_accuracy"]) for r in csv.DictReader(file)]
    expected = [s["phases"]["phase1"]["test_balanced_accuracy"] for s in summaries]
    assert sorted(found) == pytest.approx(sorted(expected))
    text = (tmp_path / "work" / "report.md").read_text()
    assert text.startswith("# cltv on npz:")
    assert "cut into 2 folds, seed i tests fold i" in text
    assert "top1_" not in text  # One system has nothing to be drawn against.
    assert "top-5" not in text.partition("Test top-1")[0]  # Of three classes it would be 100 %.


def test_a_seed_that_is_no_fold_is_refused_and_seed_i_takes_fold_i() -> None:
    config = config_of(3)
    assert config.seeds == (0, 1, 2)
    schedule.check(config)
    single = schedule.build(config, load("digits"), {}, ("cltv", 2, False))
    assert (single.data.split_index, single.data.folds, single.seed) == (2, 3, 2)
    config.seeds = (0, 3)
    with pytest.raises(InputError, match="must be folds, from 0 to 2"):
        schedule.check(config)


def test_train_with_folds_compares_the_same_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Any] = []

    def compare(*args: Any) -> int:
        given.extend(args)
        return 0

    monkeypatch.setattr(processes, "compare", compare)
    for flag in list(flags.FLAGS):
        if (flags.FLAGS.find_module_defining_flag(flag) or "").startswith("experiments."):
            delattr(flags.FLAGS, flag)
    sys.modules.pop("experiments.train", None)
    train = importlib.import_module("experiments.train")
    config = Path(__file__).parents[1] / "experiments" / "configs" / "digits.py"
    arguments = ["train", f"--config={config}:cpv", "--folds=4", "--config.phase1.epochs=7"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert train.main(flags.FLAGS(arguments)[1:]) == 0
    comparison, workdir, module = given
    assert (workdir, module) == (Path("runs/digits-cpv-4folds"), "experiments.train")
    assert (comparison.data.splits, comparison.data.folds) == ("folds", 4)
    assert (comparison.phase1.epochs, list(comparison.systems)) == (7, ["cpv"])
    assert comparison.handoff == "with"
