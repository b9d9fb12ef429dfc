"""A run's folder: opened, refused by name, resumed, its best weights found, finished."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cxv_jax import runs
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.config import base, differences
from cxv_jax.data.splits import Dataset, Split
from cxv_jax.data.stored import Stored
from cxv_jax.errors import InputError
from cxv_jax.lock import FolderLock
from cxv_jax.phase import Phase
from cxv_jax.records import Best, DataRecord, Meta, PhaseSummary
from cxv_jax.run_files import cuts_anew, plain
from cxv_jax.session import Session

PHASES = {
    "phase1": PhaseSummary(epoch=2, val_top1=0.5, test_top1=0.25, test_top5=0.75),
    "phase2": PhaseSummary(epoch=3, val_top1=0.75, test_top1=0.5, test_top5=1.0),
}


def small_config() -> ConfigDict:
    config = base("cltv", "digits")
    config.model.update(embed_dim=8, depth=1, num_heads=1, head_dim=4)
    config.data.subset_per_class = 10
    config.batch_size = 16
    config.phase1.update(epochs=3, patience=2)
    return config


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.of(small_config(), devices=1)


def opened(folder: Path | str, config: ConfigDict, fork: bool) -> Path:
    names, labels = ("a", "b"), np.arange(2, dtype=np.int32)
    splits = {"train": Split(np.zeros((2, 8, 8, 3), np.uint8), labels)}
    return runs.open_run(folder, config, fork=fork, data=Stored.of(Dataset("toy", names, splits)))


def started(session: Session, folder: Path) -> runs.Run:
    return runs.Run(session.config, session, folder, FolderLock(folder))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("value", "anew"), [("split", False), ("train", True)])
def test_a_field_that_an_older_config_lacks_had_its_default(value: str, anew: bool) -> None:
    config = small_config()
    before = plain(config)
    del before["data"]["small_classes"]
    config.data.small_classes = value
    assert cuts_anew(before, plain(config)) is anew
    assert cuts_anew({}, plain(config))


def test_a_new_folder_holds_its_config_and_takes_the_same_again(tmp_path: Path) -> None:
    config = small_config()
    folder = opened(str(tmp_path / "a" / "run"), config, fork=False)
    assert folder == tmp_path / "a" / "run"
    written = json.loads((folder / "config.json").read_text())
    assert written == json.loads(json.dumps(config.to_dict()))
    before = files(folder)
    assert opened(folder, small_config(), fork=False) == folder
    assert files(folder) == before
    runs.check_joined(folder, config)


def test_another_config_is_refused_by_field_and_nothing_changes(tmp_path: Path) -> None:
    opened(tmp_path, small_config(), fork=False)
    other, before = small_config(), files(tmp_path)
    other.phase1.learning_rate, other.seed = 0.25, 7
    words = r"phase1.learning_rate was 0.001, is 0.25; seed was 0, is 7.*workdir.*fork=True"
    with pytest.raises(InputError, match=words):
        opened(tmp_path, other, fork=False)
    with pytest.raises(InputError, match=r"first process.*phase1.learning_rate was 0.001, is 0.25"):
        runs.check_joined(tmp_path, other)
    assert files(tmp_path) == before


def test_a_fork_keeps_every_old_config(tmp_path: Path) -> None:
    config, texts = small_config(), []
    for seed in (0, 1, 2):
        config.seed = seed
        opened(tmp_path, config, fork=True)
        texts.append((tmp_path / "config.json").read_text())
    kept = [(tmp_path / name).read_text() for name in ("config.1.json", "config.2.json")]
    assert kept == texts[:2]
    assert json.loads(texts[2])["seed"] == 2
    opened(tmp_path, config, fork=True)  # Nothing differs: nothing is kept.
    assert not (tmp_path / "config.3.json").exists()


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(InputError, match="one folder that all processes see"):
        runs.check_joined(path, small_config())
    path.touch()
    with pytest.raises(InputError, match="run is a file; name a folder"):
        opened(path, small_config(), fork=False)


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    opened(tmp_path, small_config(), fork=False)
    (tmp_path / "config.json").write_text('{"seed": ')
    for fork in (False, True):
        with pytest.raises(InputError, match=r"config.json is damaged .*restore it or delete"):
            opened(tmp_path, small_config(), fork=fork)


def test_differences_name_what_changed_came_and_went() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": 0.5}, "gone": "x"}
    new = {"a": 1, "b": {"c": [1, 3], "d": 0.5, "e": None}, "come": {"f": True}}
    assert differences(old, new) == [
        "b.c was [1, 2], is [1, 3]",
        "come was None, is {'f': True}",
        "gone was 'x', is None",
    ]
    assert differences(old, old) == []


def test_a_run_goes_on_until_its_epochs_or_patience_are_spent(
    session: Session, tmp_path: Path
) -> None:
    with started(session, tmp_path) as run:
        for done, patience, goes_on in [(0, 0, True), (2, 1, True), (3, 0, False), (2, 2, False)]:
            run.progress.phase_epoch, run.progress.patience = done, patience
            assert run.goes_on() is goes_on


def test_a_saved_run_resumes_with_its_arrays_and_its_place(
    session: Session, tmp_path: Path
) -> None:
    phase = session.phases[Phase.ONE]
    with started(session, tmp_path) as run:
        chex.assert_trees_all_equal(run.state, phase.begin())
        moved = jax.tree.map(lambda x: x + 1, run.state.params)
        run.state = dataclasses.replace(run.state, step=run.state.step + 5, params=moved)
        run.progress.epoch, run.progress.phase_epoch, run.progress.steps = 1, 1, 3
        run.progress.best["phase1"] = Best(0.5, 1.5, 0.9, 1)
        run.progress.rates.append(100.0)
        run.save(best_of="phase1")
        saved = run.state, run.progress
    with started(session, tmp_path) as again:
        chex.assert_trees_all_equal(again.state, saved[0])
        assert again.progress == saved[1]
        assert int(again.state.step) == 5
        again.state = dataclasses.replace(again.state, step=again.state.step + 1)
        again.save()
        best = again.restore_best(Phase.ONE)
        assert int(best.step) == 5
        chex.assert_trees_all_equal(best.params, saved[0].params)
        with pytest.raises(InputError, match="best weights of phase 2 is gone"):
            again.restore_best(Phase.TWO)


def test_imported_weights_are_no_run_to_resume(session: Session, tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    meta = Meta(config={}, dataset=DataRecord(("a", "b"), (8, 8, 3)))
    checkpointer.save(0, {"w": np.zeros(2)}, meta.to_json())
    checkpointer.close()
    with pytest.raises(InputError, match="imported weights: to train them name another workdir"):
        started(session, tmp_path)


def test_a_summary_is_the_last_phases_and_finishes_its_config_only(
    session: Session, tmp_path: Path
) -> None:
    with started(session, tmp_path) as run:
        run.progress.epoch, run.progress.rates = 3, [10.0, 1000.0, 20.0]
        summary = run.summary(PHASES)
        leaves = jax.tree.leaves(run.state.params)
    assert (summary.test_top1, summary.test_top5) == (0.5, 1.0)
    assert (summary.model, summary.dataset, summary.seed) == ("cltv", "digits", 0)
    assert (summary.epochs, summary.images_per_second) == (3, 20.0)  # The median.
    assert summary.parameters == sum(int(np.prod(leaf.shape)) for leaf in leaves)
    assert summary.config == json.loads(json.dumps(session.config.to_dict()))
    assert runs.finished(tmp_path, session.config) is None
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(summary.to_json()))
    assert runs.finished(tmp_path, session.config) == summary
    other = small_config()
    other.seed = 1
    assert runs.finished(tmp_path, other) is None
    path.write_text("{")
    with pytest.raises(InputError, match=r"summary.json is damaged"):
        runs.finished(tmp_path, session.config)


def test_a_folder_of_an_older_version_goes_on_with_todays_defaults(
    session: Session, tmp_path: Path
) -> None:
    """Fields that its config lacks are at their defaults; nothing else may differ."""
    config = small_config()
    opened(tmp_path, config, fork=False)
    path = tmp_path / "config.json"
    older = json.loads(path.read_text())
    del older["phase1"]["light_share"], older["data"]["splits"], older["model"]["remat"]
    path.write_text(json.dumps(older))
    opened(tmp_path, config, fork=False)
    path.write_text(json.dumps(older))
    config.phase1.light_share = 0.5
    with pytest.raises(InputError, match=r"phase1.light_share was 0.0, is 0.5\. Name another"):
        opened(tmp_path, config, fork=False)


def test_where_the_data_lie_does_not_undo_a_finished_run(session: Session, tmp_path: Path) -> None:
    with started(session, tmp_path) as run:
        run.progress.rates = [1.0]
        summary = run.summary(PHASES).to_json()
    del summary["config"]["phase1"]["clip_norm"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    config = small_config()
    config.data.data_dir = "/elsewhere"
    found = runs.finished(tmp_path, config)
    assert found is not None
    assert found.test_top1 == 0.5
    config.data.val_fraction = 0.5
    assert runs.finished(tmp_path, config) is None
