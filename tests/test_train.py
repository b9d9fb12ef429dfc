"""The training loop: resumes bit for bit, same on 1 and 8 devices, honest in what it reports."""

import functools
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cxv_jax import augment, divergence, models, optimizer, report, state, step, step_folder, train
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.data import sources
from cxv_jax.errors import InputError
from cxv_jax.interrupt import Interrupted
from cxv_jax.lock import FolderLock
from cxv_jax.parts import make_optimizer, redraw_projections
from cxv_jax.phase import Phase
from cxv_jax.records import EpochRecord, Progress, Summary
from cxv_jax.runs import Run
from experiments.configs import digits
from tests import small_steps

TINY = {"embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}


def tiny_config(model: str = "cpv") -> ConfigDict:
    config = digits.get_config(model)
    config.model.update(TINY)
    config.data.subset_per_class = 30
    config.batch_size = 64
    config.phase1.update(epochs=2, patience=5, schedule="constant", warmup_epochs=0)
    config.phase2.update(epochs=1, patience=5)
    return config


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, by name."""
    step_number = Checkpointer(workdir / "checkpoints").latest_step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax would rather be told the devices.
        return ocp.PyTreeCheckpointer().restore(
            workdir / "checkpoints" / str(step_number) / "state"
        )


def interrupt_after(monkeypatch: pytest.MonkeyPatch, calls: int, number: int) -> None:
    """Send this process a signal when the loop has reported its ``calls``-th step."""
    original, seen = report.Report.update, [0]

    def update(self, *args, **kwargs):
        seen[0] += 1
        if seen[0] == calls:
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(report.Report, "update", update)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Summary]]:
    """Trains ``tiny_config`` to its end, once a loader: the run's folder and its summary."""

    @functools.cache
    def run(loader: str) -> tuple[Path, Summary]:
        config, folder = tiny_config(), tmp_path_factory.mktemp("finished") / "run"
        config.data.loader = loader
        return folder, train.train_and_evaluate(config, folder)

    return run


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("loader", "calls", "number"),
    [
        ("resident", 2, signal.SIGINT),
        ("streaming", 6, signal.SIGTERM),
        ("resident", 10, signal.SIGTERM),
    ],
    ids=["in epoch 1", "in epoch 2, streaming", "in phase 2"],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: Callable[[str], tuple[Path, Summary]],
    loader: str,
    calls: int,
    number: int,
) -> None:
    config, (folder, whole) = tiny_config(), finished(loader)
    config.data.loader = loader
    with monkeypatch.context() as patch:
        interrupt_after(patch, calls, number)
        with pytest.raises(Interrupted) as stopped:
            train.train_and_evaluate(config, tmp_path / "cut")
    assert stopped.value.signal == number
    resumed = train.train_and_evaluate(config, tmp_path / "cut")
    chex.assert_trees_all_equal(final_state(folder), final_state(tmp_path / "cut"))
    assert resumed.phases == whole.phases
    runs = (folder, tmp_path / "cut")
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
    epochs = [
        [(r["epoch"], r["train_loss"]) for r in map(json.loads, each) if r["kind"] == "epoch"]
        for each in lines
    ]
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("model", ["cpv", "resnet18"])
def test_eight_devices_compute_what_one_does(model: str) -> None:
    module = models.create(model, **(TINY if model == "cpv" else {"widths": (8, 8, 8, 8)}))
    last, many, _ = small_steps.run(module, 20, rate=0.003, devices=8)
    _, one, _ = small_steps.run(module, 20, rate=0.003)
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert many[-1] != many[0]
    assert len(jax.tree.leaves(last.params)[0].sharding.device_set) == 8


def test_one_batch_can_be_learnt_by_heart() -> None:
    module, tx = models.create("cltv", **TINY), optimizer.phase({"adamw": optimizer.adamw(0.01)})
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.normal(size=(16, 8, 8, 3)), jnp.float32)
    labels = jnp.arange(16) % 10
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    opt_state = tx.init(params)

    @jax.jit
    def update(params, opt_state):
        def loss_fn(p):
            logits = module.apply({"params": p}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for _ in range(150):
        params, opt_state, loss = update(params, opt_state)
    assert loss < 0.05


def test_each_phase_is_traced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def counted(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    original = step.train_step
    monkeypatch.setattr(step, "train_step", counted)
    train.train_and_evaluate(tiny_config(), tmp_path)
    assert len(traces) == 2


def test_several_steps_in_one_call_are_the_same_steps(tmp_path: Path) -> None:
    config, losses = tiny_config("cltv"), []
    config.phase2.epochs = 0
    for steps in (1, 2):
        config.steps_per_call = steps
        train.train_and_evaluate(config, tmp_path / str(steps))
        lines = (tmp_path / str(steps) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_the_handoff_starts_from_the_best_weights(tmp_path: Path) -> None:
    config = tiny_config()
    config.phase2.learning_rate = 1e-30  # SGD that stands still shows what it was given.
    summary = train.train_and_evaluate(config, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    epochs = [r for r in records if r["kind"] == "epoch"]
    best = max((r["val_top1"], -r["val_loss"]) for r in epochs if r["phase"] == 1)
    (second,) = [(r["val_top1"], -r["val_loss"]) for r in epochs if r["phase"] == 2]
    np.testing.assert_allclose(second, best, rtol=1e-6)
    assert summary.phases["phase2"].test_top1 == summary.phases["phase1"].test_top1


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    finished: Callable[[str], tuple[Path, Summary]], tmp_path: Path
) -> None:
    config, folder = tiny_config(), tmp_path / "run"
    shutil.copytree(finished("resident")[0], folder)
    before = Checkpointer(folder / "checkpoints").steps()
    config.phase2.epochs, config.phase2.learning_rate = 3, 1e30
    with pytest.raises(InputError, match=r"loss is (nan|inf) in step \d of epoch \d"):
        train.train_and_evaluate(config, folder, fork=True)
    assert set(before) <= set(Checkpointer(folder / "checkpoints").steps())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_epoch_that_ends_outside_the_numbers_is_not_selected(tmp_path: Path, ema: float) -> None:
    config = tiny_config("cltv")
    config.batch_size = 256  # One step an epoch: its loss is finite, what it leaves is not.
    config.phase1.learning_rate, config.ema_decay = 1e30, ema
    words = (
        r"the val loss is (nan|inf) in step 1 of epoch 1 \(phase 1, learning rate 1e\+30.*seed 0 "
        "and epoch 0.*there is no checkpoint yet.*phase1.learning_rate"
    )
    with pytest.raises(InputError, match=words):
        train.train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_weights_outside_the_numbers_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "learning_rate", 0.5)
    run: Any = object.__new__(Run)
    good = {"w": jnp.ones(3), "n": jnp.arange(2)}
    run.state, run.progress = good, Progress(epoch=4, steps=7)
    run.config = ConfigDict({"selection": "val", "seed": 3})
    run.checkpointer = SimpleNamespace(latest_step=lambda: 40)
    divergence.check(run)
    run.state = good | {"w": jnp.array([1.0, jnp.nan])}
    with pytest.raises(InputError, match="weights are not finite in step 7.*step 40 is good"):
        divergence.check(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    config = tiny_config("cltv")
    config.phase2.epochs = 2
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.train_and_evaluate(config, folder)
    return folder


def resumed(whole: Path, folder: Path, victims: list[int]) -> tuple[Summary, str]:
    """The unfinished copy of a run with damage to some of its checkpoints, gone on with."""
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    for number in victims:
        file = next((folder / "checkpoints" / str(number)).rglob("manifest.ocdbt"))
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    said: list[str] = []
    config = ConfigDict(json.loads((whole / "config.json").read_text()))
    return train.train_and_evaluate(config, folder, say=said.append), "\n".join(said)


def test_a_damaged_latest_checkpoint_costs_an_epoch(whole: Path, tmp_path: Path) -> None:
    latest = Checkpointer(whole / "checkpoints").latest_step()
    assert latest is not None
    summary, said = resumed(whole, tmp_path / "run", [latest])
    assert f"checkpoints/{latest}/" in said
    assert f"set aside as {latest}.damaged" in said
    assert (tmp_path / "run" / "checkpoints" / f"{latest}.damaged").is_dir()
    chex.assert_trees_all_equal(final_state(whole), final_state(tmp_path / "run"))
    assert summary.to_json()["phases"] == json.loads((whole / "summary.json").read_text())["phases"]


def test_damaged_best_weights_do_not_end_a_run(whole: Path, tmp_path: Path) -> None:
    checkpointer = Checkpointer(whole / "checkpoints")
    victim = checkpointer.best_step("phase1")
    assert victim is not None
    assert victim not in checkpointer.steps()[-2:]
    summary, said = resumed(whole, tmp_path / "run", [victim])
    assert "the best weights of phase 1" in said
    assert list(summary.phases) == ["phase2"]
    chex.assert_trees_all_equal(final_state(whole), final_state(tmp_path / "run"))


def test_without_a_good_checkpoint_a_run_says_so(whole: Path, tmp_path: Path) -> None:
    steps = Checkpointer(whole / "checkpoints").steps()
    for folder in (tmp_path / "run", tmp_path / "run again"):
        with pytest.raises(InputError, match="no checkpoint in .* is good: .*manifest"):
            resumed(whole, folder, steps)


def test_a_save_in_flight_is_waited_for_when_the_loop_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Checkpointer._finish

    def slowly(self: Checkpointer, *args: Any) -> None:
        time.sleep(1)
        finish(self, *args)

    def fail(*_: object) -> None:
        raise RuntimeError("the loop")

    monkeypatch.setattr(Checkpointer, "_finish", slowly)
    monkeypatch.setattr(train, "stop_if_asked", fail)
    with pytest.raises(RuntimeError, match="the loop"):
        train.train_and_evaluate(tiny_config("cltv"), tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("*/checksums.sha256"))) == 1
    monkeypatch.setattr(Checkpointer, "_finish", fail)  # A save that fails hides nothing.
    with pytest.raises(RuntimeError, match="the loop"):
        train.train_and_evaluate(tiny_config("cltv"), tmp_path / "other")


@pytest.mark.parametrize("change", [{"progress": 3}, {"config": []}, {"dataset": {}}], ids=str)
def test_a_record_of_another_form_is_one_line(whole: Path, tmp_path: Path, change: dict) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    for folder in (tmp_path / "checkpoints").iterdir():
        record = json.loads((folder / "meta.json").read_text())
        record["meta"] |= change
        (folder / "meta.json").write_text(json.dumps(record))
        step_folder.seal(folder)
    config = ConfigDict(json.loads((whole / "config.json").read_text()))
    with pytest.raises(InputError, match="the record of checkpoint .* is damaged"):
        train.train_and_evaluate(config, tmp_path)


def test_a_folder_deleted_in_mid_run_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = report.Report.end_epoch

    def delete(self: report.Report, record: EpochRecord) -> None:
        original(self, record)
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(report.Report, "end_epoch", delete)
    with pytest.raises(InputError, match="run was deleted or moved"):
        train.train_and_evaluate(tiny_config("cltv"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_trained_in_once_at_a_time(tmp_path: Path) -> None:
    config = tiny_config()
    with FolderLock(tmp_path) as lock:
        lock.take()
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on"):
            train.train_and_evaluate(config, tmp_path)
        assert sorted(tmp_path.iterdir()) == before
    config.phase1.epochs, config.phase2.epochs = 1, 0
    train.train_and_evaluate(config, tmp_path)
    assert ".lock" not in [path.name for path in tmp_path.iterdir()]


def test_a_run_goes_on_with_its_own_splits_or_says_why_not(tmp_path: Path) -> None:
    folder, config = tmp_path / "pictures", tiny_config("cltv")
    digits_set = sources.load("digits")
    for i, label in enumerate(digits_set.splits["train"].labels[:400]):
        path = folder / str(label % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits_set.splits["train"].images[i]).save(path)
    config.data.update(source=f"folder:{folder}", image_size=8, subset_per_class=0)
    config.phase1.epochs, config.phase2.epochs = 1, 0
    train.train_and_evaluate(config, tmp_path / "run")
    kept = (tmp_path / "run" / "data.json").read_text()
    for path in list(folder.rglob("*.png"))[:50]:
        shutil.copy(path, path.with_stem(f"new{path.stem}"))
    config.phase1.epochs = 2
    train.train_and_evaluate(config, tmp_path / "run", fork=True)
    assert (tmp_path / "run" / "data.json").read_text() == kept
    (folder / "0").rename(folder / "zero")
    config.phase1.epochs = 3
    with pytest.raises(InputError, match="new: 'zero'; gone: '0'"):
        train.train_and_evaluate(config, tmp_path / "run", fork=True)
    (tmp_path / "run" / "data.json").unlink()  # What the checkpoint says is enough to refuse.
    with pytest.raises(InputError, match="new: 'zero'; gone: '0'"):
        train.train_and_evaluate(config, tmp_path / "run", fork=True)


def test_another_config_is_refused_with_the_fields_named(tmp_path: Path) -> None:
    config = tiny_config()
    config.phase2.epochs = 0
    config.phase1.epochs = 1
    train.train_and_evaluate(config, tmp_path)
    config.phase1.learning_rate = 0.5
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"phase1.learning_rate was 0.002, is 0.5.*fork=True"):
        train.train_and_evaluate(config, tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 60}, "60.*8 devices"),
        ({"batch_size": 4096}, "4096"),
        ({"model.name": "cpw"}, "cpv"),
        ({"phase1.patience": 0}, "phase1.patience"),
        ({"phase1.schedule": "cosin"}, "cosine"),
        ({"phase2.optimizer": "sdg"}, "sgd"),
        ({"selection": "train"}, "selection"),
        ({"data.loader": "fast"}, "loader"),
        ({"data.source": "digitz"}, "digits"),
        ({"phase1.augment.policy": "trivil"}, "trivial"),
        ({"model.dtype": "float31"}, "float31"),
    ],
    ids=str,
)
def test_bad_fields_are_named_and_nothing_is_written(
    tmp_path: Path, change: dict, words: str
) -> None:
    config = tiny_config()
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=words):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_kept_parameters_stay_on_phase_ones_optimizer() -> None:
    config = tiny_config()
    config.phase2.keep = "^head"
    tx = make_optimizer(config, Phase.TWO, 10)
    params = {name: {"kernel": jnp.full((2, 3), 0.5)} for name in ("head", "body")}
    updates, _ = tx.update(params, tx.init(params), params)
    adamw = optax.adamw(config.phase1.learning_rate, weight_decay=0.01)
    want, _ = adamw.update(params["head"], adamw.init(params["head"]), params["head"])
    chex.assert_trees_all_close(updates["head"], want, rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["kernel"], -0.5 * config.phase2.learning_rate)


def test_projections_are_redrawn_every_n_steps() -> None:
    constants = {"a": {"projection": jnp.zeros((6, 4))}, "b": {"projection": jnp.zeros((6, 4))}}
    new = redraw_projections(jax.random.key(0), constants)
    assert not np.allclose(new["a"]["projection"], new["b"]["projection"])
    config = step.StepConfig((), (), 10, 0.0, 0.0, augment.make(), redraw_projections, 3)
    for number, changed in [(0, False), (2, False), (3, True), (4, False), (6, True)]:
        current = state.TrainState(jnp.asarray(number), {}, {}, constants, (), None)
        drawn = step.constants_of(config, jax.random.key(0), current)
        assert bool(jnp.any(drawn["a"]["projection"] != 0)) is changed


def test_the_last_weights_count_where_nothing_selects(tmp_path: Path) -> None:
    """No evaluation before the end, with validation read once or without any."""
    config = tiny_config()
    config.selection, config.data.val_fraction = "last", 0.0
    config.phase1.update(clip_norm=1.0, light_share=0.5)
    config.phase1.augment.mixup_alpha = 0.2
    summary = train.train_and_evaluate(config, tmp_path / "a", quiet=True)
    lines = [json.loads(x) for x in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [x["val_top1"] for x in lines if x["kind"] == "epoch"] == [None] * 3
    assert [phase.epoch for phase in summary.phases.values()] == [2, 3]
    assert {phase.val_top1 for phase in summary.phases.values()} == {None}
    (handoff,) = [x for x in lines if x["kind"] == "handoff"]
    assert (handoff["from_epoch"], handoff["best_top1"]) == (2, None)

    config.data.val_fraction = 0.2
    summary = train.train_and_evaluate(config, tmp_path / "b", quiet=True)
    assert all(phase.val_top1 is not None for phase in summary.phases.values())
