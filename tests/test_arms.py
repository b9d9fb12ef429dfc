"""Arms of a comparison: one first phase for all, the same bits whatever happens in between."""

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import chex
import pytest
from ml_collections import ConfigDict

from cxv_jax import report, train
from cxv_jax.data import sources
from cxv_jax.errors import InputError
from cxv_jax.interrupt import Interrupted
from cxv_jax.parts import make_optimizer
from cxv_jax.phase import Phase
from experiments.compare import forks, schedule
from experiments.compare.carry_out import Launch, carry_out
from experiments.configs import compare_handoff, comparison, digits
from tests.test_compare import in_process
from tests.test_train import final_state

MODEL = {"name": "cltv", "embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
GOES_ON = {"optimizer": "adamw", "options": {"weight_decay": 0.01}, "fresh_state": False}
ARMS: dict[str, Any] = {
    "A": {"phase2": {**GOES_ON, "learning_rate": 2e-3}},
    "E": {"phase2": {"schedule": "linear", "learning_rate": 0.05}},
    "F": {"phase2": {"schedule": "linear", "learning_rate": 0.05}},
    "G": {"phase2": {**GOES_ON, "learning_rate": 2e-3, "average_epochs": 1}},
}


def tiny(*labels: str) -> ConfigDict:
    recipe = digits.get_config()
    recipe.data.subset_per_class = 20
    recipe.ema_decay, recipe.handed = 0.0, "last"
    recipe.phase1.update(epochs=2, schedule="constant", warmup_epochs=0)
    recipe.phase2.update(epochs=1)
    config = comparison.compare(recipe, {"ours": MODEL})
    config.arms = ConfigDict({label: ARMS[label] for label in labels or ARMS})
    config.contrasts, config.primary, config.equivalence = ConfigDict(), (), 0.3
    return config


def launch_without_costs() -> Launch:
    return Launch(lambda *_: None, in_process().train)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    assert carry_out(tiny(), folder, launch_without_costs(), say=silent)
    return folder / "runs"


def test_arms_share_one_first_phase_and_equal_ones_end_with_the_same_bits(whole: Path) -> None:
    (prefix,) = whole.glob("*prefix*")
    first = [line for line in epochs(prefix) if line["phase"] == 1]
    for arm in ARMS:
        assert [x for x in epochs(whole / f"ours-seed0-{arm}") if x["phase"] == 1] == first
    states = {arm: final_state(whole / f"ours-seed0-{arm}") for arm in ARMS}
    chex.assert_trees_all_equal(states["E"], states["F"])
    # G is A, seen through its average: another program, which XLA may round otherwise. The key's
    # bias has no gradient but rounding, which AdamW makes as large as any other.
    for part in ("params", "opt"):
        pair = [state_of(states[arm], part) for arm in ("A", "G")]
        kept = [{k: v for k, v in x.items() if "['qkv']['bias']" not in k} for x in pair]
        chex.assert_trees_all_close(*kept, rtol=1e-3, atol=1e-5)


def test_an_optimizer_that_goes_on_is_a_longer_first_phase(whole: Path, tmp_path: Path) -> None:
    config = schedule.build(tiny(), sources.load("digits"), {}, ("ours", 0, "A"))
    config.phase1.epochs, config.phase2.epochs = 3, 0
    train.train_and_evaluate(config, tmp_path, quiet=True)
    arm, longer = final_state(whole / "ours-seed0-A"), final_state(tmp_path)
    for part in ("params", "opt"):
        chex.assert_trees_all_equal(state_of(arm, part), state_of(longer, part))


def test_a_fork_that_was_interrupted_ends_with_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = report.Report.update, [0]

    def update(self: Any, *args: Any, **kwargs: Any) -> None:
        steps[0] += 1
        if steps[0] in (7, 12):  # In the second epoch of the prefix, and in the fork.
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args, **kwargs)

    monkeypatch.setattr(report.Report, "update", update)
    (tmp_path / "runs/ours-seed0-E.new/checkpoints").mkdir(parents=True)  # Copied in half.
    for _ in range(2):
        with pytest.raises(Interrupted):
            carry_out(tiny("E"), tmp_path, launch_without_costs(), say=silent)
    assert carry_out(tiny("E"), tmp_path, launch_without_costs(), say=silent)
    ends = [final_state(folder / "ours-seed0-E") for folder in (whole, tmp_path / "runs")]
    chex.assert_trees_all_equal(*ends)


def test_the_report_names_arms_and_its_rows_hold_both_figures(whole: Path) -> None:
    with (whole.parent / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == list(ARMS)
    for row in rows:
        summary = json.loads((whole / f"ours-seed0-{row['arm']}" / "summary.json").read_text())
        assert float(row["last_test_top1"]) == summary["last_test_top1"]
    assert "## Arms" in (whole.parent / "report.md").read_text()


def test_summaries_alone_bring_the_report_back(whole: Path, tmp_path: Path) -> None:
    for arm in ARMS:
        (tmp_path / "runs" / f"ours-seed0-{arm}").mkdir(parents=True)
        name = f"runs/ours-seed0-{arm}/summary.json"
        (tmp_path / name).write_bytes((whole.parent / name).read_bytes())

    def never(*_: Any) -> str | None:
        raise AssertionError("a finished run was started again")

    assert carry_out(tiny(), tmp_path, Launch(never, never), say=silent)
    for name in ("report.md", "results.csv"):
        assert (tmp_path / name).read_bytes() == (whole.parent / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget.images": 5}, "config.arms have their own epochs"),
        ({"contrasts": {"x": ("E", "AA")}}, "'AA'.*A"),
        ({"arms.A.phase2.learning_rate": 0.5}, "fresh_state.*same.*learning_rate"),
    ],
    ids=str,
)
def test_what_arms_cannot_be_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    config = tiny("A", "E")
    ((path, value),) = change.items()
    *places, name = path.split(".")
    place = config
    for each in places:
        place = place[each]
    place[name] = ConfigDict(value) if isinstance(value, dict) else value
    said: list[str] = []
    if "arms" in path:
        assert not carry_out(config, tmp_path / "work", launch_without_costs(), say=said.append)
    else:
        with pytest.raises(InputError) as raised:
            carry_out(config, tmp_path / "work", launch_without_costs(), say=said.append)
        said = [str(raised.value)]
    assert any(re.search(words, line) for line in said), said


@pytest.mark.parametrize("data", ["digits", "cifar10", "fashion_mnist"])
def test_the_handoff_comparison_is_made_of_fair_arms(data: str) -> None:
    config = compare_handoff.get_config(data)
    schedule.check(config)
    assert [config.contrasts[name] for name in config.primary] == [("E", "C"), ("E", "B")]
    dataset = sources.load("digits")
    made = {arm: schedule.build(config, dataset, {}, ("vit", 3, arm)) for arm in config.arms}
    prefixes = {arm: forks.prefix_of(run) for arm, run in made.items()}
    assert [arm for arm, prefix in prefixes.items() if prefix is None] == ["B", "M", "S"]
    assert len({prefix.to_json() for prefix in prefixes.values() if prefix}) == 1
    length = sum(compare_handoff.EPOCHS[data])
    for arm, run in made.items():
        share = {"F": run.phase2.epochs}.get(arm, 0)  # Two gradients for every image.
        assert run.phase1.epochs + run.phase2.epochs + share == length
        assert (run.seed, run.batch_size) == (3, config.batch_size)
        for phase in Phase:
            make_optimizer(run, phase, 5)
    assert made["C"].phase2.options == made["C"].phase1.options
    assert "momentum" not in made["C"].phase2.options


def epochs(folder: Path) -> list[dict[str, Any]]:
    """Lines of the epochs, without what is measured."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    measured = ("images_per_second", "seconds")
    return [
        {k: x for k, x in line.items() if k not in measured}
        for line in lines
        if line["kind"] == "epoch"
    ]


def state_of(arrays: dict[str, Any], part: str) -> dict[str, Any]:
    """The arrays of a state whose path begins with a part."""
    found = {k: x for k, x in arrays.items() if k.startswith(f".{part}")}
    assert found
    return found
