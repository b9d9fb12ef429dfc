"""Beginning with weights: what comes along and what is new, frozen and slow parts, exact resume."""

import shutil
import signal
from pathlib import Path
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from cxv_jax import inference, torch_import, train, warm_start
from cxv_jax.config import base, check_config
from cxv_jax.errors import InputError
from cxv_jax.interrupt import Interrupted
from cxv_jax.parts import make_optimizer
from cxv_jax.phase import Phase
from cxv_jax.session import Session
from tests.test_inference import CLASSES, save
from tests.test_inference_commands import GOLDEN, run_command
from tests.test_train import final_state, interrupt_after, tiny_config


def started(config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The variables that a run begins with, those of random numbers, and what is told."""
    session = Session.of(config)
    first, start = session.phases[Phase.ONE], warm_start.read(config, session)
    states = [first.begin(start.arrays), first.begin()]
    begun, random = (flax.traverse_util.flatten_dict(s.variables(), sep="/") for s in states)
    return begun, random, start.told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the classes c0 to c6 at 9 x 11 pixels, with an average of the weights."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, ["phase1"], ema=True)
    return folder


def flat(folder: Path) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(inference.load_run(folder).variables, sep="/")


def test_a_run_of_other_classes_and_image_size_gives_all_but_the_head(run: Path) -> None:
    config = tiny_config()
    config.init_from, config.ema_decay = str(run), 0.9
    begun, random, (told, scaled) = started(config)
    head = {"params/head/bias", "params/head/kernel"}
    for name, leaf in flat(run).items():
        chex.assert_trees_all_equal(begun[name], random[name] if name in head else leaf)
    assert told.startswith(f"begun with {run}: {len(begun) - 2} of {len(begun)} arrays; new: ")
    assert set(told.partition("new: ")[2].split(", ")) == head
    assert "another mean and deviation, (0.2, 0.5, 0.3)" in scaled


@pytest.mark.parametrize("same", [True, False])
def test_the_head_comes_along_for_the_same_classes_only(run: Path, same: bool) -> None:
    config = tiny_config()
    config.init_from, config.data.classes = str(run), tuple("1234567")
    assert len(config.data.classes) == CLASSES
    session = Session.of(config)
    if same:
        splits = session.dataset.splits
        names = tuple(f"c{i}" for i in range(CLASSES))
        session.dataset = type(session.dataset)("digits", names, splits)
    assert ("params/head/kernel" in warm_start.read(config, session).arrays) is same


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("classes", [10, 3])
def test_a_file_of_the_authors_weights_is_begun_with(
    ending: str, classes: int, tmp_path: Path
) -> None:
    golden = np.load(GOLDEN / "cpv.npz")
    weights = {key[6:]: golden[key] for key in golden.files if key.startswith("param:")}
    path = tmp_path / f"weights.{ending}"
    save_file(weights, path) if ending == "safetensors" else np.savez(path, **weights)
    config = base("cpv", "digits")
    sizes = torch_import.cxv_sizes(weights)
    assert sizes.pop("num_classes") == 10
    config.model.update(sizes)
    config.init_from, config.data.classes = str(path), tuple("0123456789")[:classes]
    begun, random, _ = started(config)
    session = Session.of(config)
    model = session.model.clone(num_classes=10)
    expected = flax.traverse_util.flatten_dict(torch_import.from_torch(model, weights), sep="/")
    for name, leaf in expected.items():
        new = classes == 3 and "/head/" in name
        chex.assert_trees_all_equal(begun[name], random[name] if new else leaf)


def test_a_file_with_our_names_is_begun_with(run: Path, tmp_path: Path) -> None:
    arrays = {k.replace("/", "."): np.asarray(x) for k, x in flat(run).items()}
    save_file(arrays, tmp_path / "ours.safetensors")
    config = tiny_config()
    config.init_from = f"{tmp_path}/ours.safetensors"
    begun, _, _ = started(config)
    np.testing.assert_array_equal(begun["params/stem_0/kernel"], arrays["params.stem_0.kernel"])


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "text.npz").write_text("text")
    for changes, words in [
        ({"init_from": f"{tmp_path}/absent"}, "absent: no such folder or file"),
        ({"init_from": str(other)}, "holds no complete checkpoint"),
        ({"init_from": f"{tmp_path}/text.npz"}, "not a readable .npz"),
        ({"init_from": str(run), "model.embed_dim": 12}, r"\(cpv\) are not those of cpv .* size"),
        ({"init_from": str(run), "phase1.frozen": "stm"}, "'stm' .* is in no parameter's path"),
        ({"init_from": str(run), "phase1.frozen": "("}, "is no pattern"),
        ({"phase1.rates": (("stem", -1),)}, "phase1.rates = .* must be pairs of a pattern"),
        ({"phase1.rates": ("stem", 0.1)}, "phase1.rates = .* must be pairs of a pattern"),
        ({"data.classes": ("1", "ten")}, "digits has no class 'ten'"),
        ({"data.classes": ("1", "1")}, "two or more different"),
    ]:
        config = tiny_config()
        config.update_from_flattened_dict(changes)
        with pytest.raises(InputError, match=words):
            train.train_and_evaluate(config, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_frozen_parts_stay_and_slow_ones_get_their_share() -> None:
    config = base("cpv", "digits")
    config.phase1 = {**config.phase1, "optimizer": "sgd", "learning_rate": 0.5}
    config.phase1.options = {"momentum": 0.0}
    config.phase1.update(frozen="stem", rates=(("body/a", 0.1),), clip_norm=5.0)
    check_config(config)
    tx = make_optimizer(config, Phase.ONE, 10)
    params = {"stem": jnp.array([7.0]), "body": {"a": jnp.array([1.0]), "b": jnp.array([2.0])}}
    grads = {"stem": jnp.array([99.0]), "body": {"a": jnp.array([6.0]), "b": jnp.array([8.0])}}
    updates, _ = tx.update(grads, tx.init(params), params)
    # The norm of (6, 8) is cut from 10 to 5; the frozen 99 does not count.
    expected = {"stem": [7.0], "body": {"a": [1.0 - 0.05 * 3], "b": [2.0 - 0.5 * 4]}}
    expected = jax.tree.map(np.float32, expected, is_leaf=lambda x: isinstance(x, list))
    chex.assert_trees_all_close(optax.apply_updates(params, updates), expected)


def test_imported_weights_are_trained_on_and_resume_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = np.load(GOLDEN / "cpv.npz")
    weights = {key[6:]: golden[key] for key in golden.files if key.startswith("param:")}
    np.savez(tmp_path / "weights.npz", **weights)
    imported = tmp_path / "imported"
    run_command("import_torch", tmp_path / "weights.npz", "--model=cpv", f"--out={imported}")
    config = tiny_config()
    sizes = torch_import.cxv_sizes(weights)
    del sizes["num_classes"]
    config.model.update(sizes)
    with pytest.raises(InputError, match="imported weights: to train them name another workdir"):
        train.train_and_evaluate(config, imported, fork=True)
    config.init_from, config.phase1.frozen = str(imported), "stem"
    train.train_and_evaluate(config, tmp_path / "whole")
    interrupt_after(monkeypatch, 3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        train.train_and_evaluate(config, tmp_path / "cut")
    shutil.rmtree(imported)
    monkeypatch.undo()
    summary = train.train_and_evaluate(config, tmp_path / "cut")
    assert summary.begun_with[0] == f"begun with {imported}: 32 of 32 arrays"
    whole, cut = (final_state(tmp_path / name) for name in ("whole", "cut"))
    chex.assert_trees_all_equal(whole, cut)
    kernel = weights["conv.0.weight"].transpose(2, 3, 1, 0)
    best = inference.load_run(tmp_path / "whole").variables["params"]
    assert jnp.abs(best["stem_0"]["kernel"] - kernel).max() > 0  # Phase two trains all.


@pytest.mark.parametrize("front", [0, 1])
def test_position_embeddings_are_resized_as_pytorch_does(front: int) -> None:
    had = np.random.default_rng(0).normal(size=(1, front + 9, 5)).astype(np.float32)
    got = warm_start._resized("params/pos_embedding", had, (1, front + 25, 5))
    assert got is not None
    torch = pytest.importorskip("torch")
    grid = torch.tensor(had[:, front:]).reshape(1, 3, 3, 5).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (5, 5), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(
        got[:, front:], grid.permute(0, 2, 3, 1).reshape(1, 25, 5), rtol=1e-5
    )
    np.testing.assert_array_equal(got[:, :front], had[:, :front])


def test_classes_are_kept_in_the_order_of_their_labels() -> None:
    from sklearn.datasets import load_digits

    from cxv_jax.data import sources

    splits = sources.load("digits", classes=("7", "2"), val_fraction=0.0).splits
    labels = np.concatenate([split.labels for split in splits.values()])
    images = np.concatenate([split.images[..., 0] for split in splits.values()])
    digits = load_digits()
    for label, digit in enumerate((7, 2)):
        ours = images[labels == label].reshape(-1, 64)
        theirs = np.round(digits.images[digits.target == digit] * (255 / 16)).reshape(-1, 64)
        np.testing.assert_array_equal(np.unique(ours, axis=0), np.unique(theirs, axis=0))
        assert len(ours) == len(theirs)
