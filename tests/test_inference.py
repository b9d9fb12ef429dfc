"""Using a run: the right weights, exact sums, probabilities; every fault in one line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics
from PIL import Image
from scipy.special import softmax

from cxv_jax import inference, models, sharding, state
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.config import base
from cxv_jax.data.loader import make_loader
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from cxv_jax.evaluation import Evaluator
from cxv_jax.records import CalibrationRecord, Summary

CLASSES = 7
SHAPE = (9, 11, 3)
MEAN, STD = (0.2, 0.5, 0.3), (0.1, 0.7, 0.4)
TINY = {"embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
PYRAMID = {"embed_dims": (8, 12), "depths": (1, 1), "num_heads": (1, 1)}


def save(
    workdir: Path,
    labels: list[str | None],
    *,
    ema: bool = False,
    model: str = "cpv",
    averaging: dict[str, Any] | None = None,
) -> None:
    """Step ``i`` holds the initial weights plus ``i``, their average the negatives of that."""
    config = base(model, "digits")
    config.model = {"name": model, **(PYRAMID if model.startswith("cxv") else TINY)}
    config.data.mean, config.data.std = MEAN, STD
    config.eval_batch_size, config.ema_decay = 10, 0.9 * ema
    if averaging:
        config.ema_decay = 0.0
        config.phase2.update(averaging)
    names = [f"c{i}" for i in range(CLASSES)]
    meta: dict[str, Any] = {"progress": {"phase": 2}} if averaging else {}
    meta |= {"config": config.to_dict(), "dataset": {"class_names": names, "image_shape": SHAPE}}
    module = models.create(num_classes=CLASSES, **config.model)
    first = state.create(module, optax.adam(1e-3), jax.random.key(0), SHAPE, ema=ema)
    checkpointer = Checkpointer(workdir / "checkpoints")
    for number, label in enumerate(labels):
        params = jax.tree.map(lambda x, n=number: x + n, first.params)
        average = {"params": jax.tree.map(jnp.negative, params), "batch_stats": {}}
        saved = dataclasses.replace(first, params=params, ema=average if ema else None)
        checkpointer.save(number, saved, meta, best_of=label)
    checkpointer.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> inference.Run:
    workdir = tmp_path_factory.mktemp("run")
    save(workdir, ["phase1"])
    loaded = inference.load_run(workdir)
    # Larger weights: the initial ones give every image the same class.
    params = jax.tree.map(lambda x: 2 * x, loaded.variables["params"])
    return dataclasses.replace(loaded, variables={**loaded.variables, "params": params})


@pytest.fixture(scope="module")
def split() -> Split:
    draw = np.random.default_rng(0)
    colors = draw.integers(0, 200, (37, 1, 1, 3))
    images = (colors + draw.integers(0, 56, (37, *SHAPE))).astype(np.uint8)
    return Split(images, draw.integers(0, CLASSES, 37).astype(np.int32))


def probabilities(run: inference.Run, images: np.ndarray) -> np.ndarray:
    """One image at a time, normalised and exponentiated with NumPy."""
    scaled = ((images / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    apply: Callable = jax.jit(run.model.apply)
    logits = np.concatenate([apply(run.variables, image[None]) for image in scaled]).astype(float)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([None, "phase1", "phase2", "phase2", None], 3),
        (["phase1", "phase1", None, None], 1),
        ([None, None, None], 2),
    ],
    ids=["best of phase two", "best of phase one", "latest"],
)
@pytest.mark.parametrize("ema", [False, True])
def test_load_run_takes_the_best_weights(
    tmp_path: Path, labels: list[str | None], chosen: int, ema: bool
) -> None:
    save(tmp_path, labels, ema=ema)
    run = inference.load_run(tmp_path)
    norm = run.variables["params"]["norm_0"]["scale"]  # Starts at 1.
    np.testing.assert_array_equal(norm, (-1 if ema else 1) * np.full(8, 1.0 + chosen))
    assert run.step == chosen
    assert (run.image_shape, run.class_names[2], run.scaling) == (SHAPE, "c2", (MEAN, STD))
    assert jax.tree.leaves(run.variables["constants"])  # Performer's projections came along.


@pytest.mark.parametrize(
    "averaging", [{"average_epochs": 1}, {"optimizer": "schedule_free_sgd"}], ids=str
)
def test_load_run_takes_the_average_that_phase_two_alone_has(
    tmp_path: Path, averaging: dict[str, Any]
) -> None:
    save(tmp_path, ["phase2"], ema=True, averaging=averaging)
    norm = inference.load_run(tmp_path).variables["params"]["norm_0"]["scale"]
    np.testing.assert_array_equal(norm, -np.ones(8))


def test_evaluation_equals_scikit_learn(run: inference.Run, split: Split) -> None:
    expected = probabilities(run, split.images)
    assert len(set(expected.argmax(1))) > 2  # Else the test shows little.
    result = inference.evaluate(run, split)
    classes = np.arange(CLASSES)
    matrix = sklearn.metrics.confusion_matrix(split.labels, expected.argmax(1), labels=classes)
    np.testing.assert_array_equal(result.confusion, matrix)
    np.testing.assert_array_equal(result.class_counts, np.bincount(split.labels, minlength=CLASSES))
    top5 = sklearn.metrics.top_k_accuracy_score(split.labels, expected, k=5, labels=classes)
    assert (result.count, result.top1) == (37, matrix.trace() / 37)
    assert result.top5 == pytest.approx(top5, abs=1e-12)
    loss = sklearn.metrics.log_loss(split.labels, expected, labels=classes)
    assert result.loss == pytest.approx(loss, rel=1e-5)


def test_evaluation_keeps_the_logits_of_every_image_however_it_is_cut(
    run: inference.Run, split: Split
) -> None:
    result = inference.evaluate(run, split)
    np.testing.assert_array_equal(result.labels, split.labels)
    expected = probabilities(run, split.images)
    np.testing.assert_allclose(softmax(result.logits, -1), expected, atol=1e-5)
    mesh = sharding.create_mesh()
    options: dict[str, Any] = dict(seed=0, train=False, batch_size=8, steps_per_call=3)
    loader = make_loader(split, batch_sharding=sharding.batch_sharding(mesh), **options)
    several = Evaluator(run.model, run.scaling, mesh)(run.variables, loader)  # 3 + 2 batches.
    np.testing.assert_array_equal(several.labels, split.labels)
    np.testing.assert_allclose(several.logits, result.logits, atol=1e-4)
    np.testing.assert_array_equal(several.confusion, result.confusion)


def test_flip_is_the_mean_over_mirror_images(run: inference.Run, split: Split) -> None:
    both = inference.evaluate(run, split, flip=True)
    mirrored = Split(split.images[:, :, ::-1], split.labels)
    each = [inference.evaluate(run, one).logits for one in (split, mirrored)]
    np.testing.assert_allclose(both.logits, np.mean(each, 0), atol=1e-4)
    assert np.abs(each[0] - each[1]).max() > 1e-2
    assert both.top1 == (both.logits.argmax(-1) == split.labels).mean()


def test_predict_divides_the_logits_by_the_temperature(run: inference.Run, split: Split) -> None:
    cool = inference.predict(dataclasses.replace(run, temperature=2.5), split.images[:5])
    logits = np.log(probabilities(run, split.images[:5]))
    np.testing.assert_allclose(cool, softmax(logits / 2.5, -1), atol=1e-5)


@pytest.mark.parametrize(("step", "temperature"), [(0, 1.7), (1, 1.0)])
def test_a_temperature_is_that_of_its_weights_alone(
    tmp_path: Path, step: int, temperature: float
) -> None:
    save(tmp_path, ["phase1"])
    fields: dict[str, Any] = dict(workdir="", dataset="", model="", selection="val", phases={})
    fields |= dict(test_top1=0.5, test_top5=1.0, parameters=1, images_per_second=1.0, seconds=1.0)
    fields |= dict(peak_memory_bytes=1, peak_memory_of="process", device="x", config={})
    found = CalibrationRecord(ece=0.1, step=step, temperature=1.7, images=5)
    summary = Summary(**fields, calibration=found)
    (tmp_path / "summary.json").write_text(json.dumps(summary.to_json()))
    assert inference.load_run(tmp_path).temperature == temperature


@pytest.mark.parametrize("number", [0, 1, 5, 23], ids=lambda n: f"{n} images")
def test_predict_gives_each_image_its_own_probabilities(
    run: inference.Run, split: Split, number: int
) -> None:
    images = split.images[:number]
    predicted = inference.predict(run, images)
    assert predicted.shape == (number, CLASSES)
    if number:
        np.testing.assert_allclose(predicted, probabilities(run, images), atol=1e-5)


def test_padding_compiles_few_sizes_and_the_devices_divide_them() -> None:
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    chunks = list(inference._padded(images, 10))
    assert [(len(chunk), count) for chunk, count in chunks] == [(16, 10), (16, 10), (8, 3)]
    np.testing.assert_array_equal(np.concatenate([c[:n] for c, n in chunks]), images)


def missing(workdir: Path) -> None:
    workdir.rmdir()


def empty(workdir: Path) -> None:
    pass


def half_written(workdir: Path) -> None:
    save(workdir, ["phase1"])
    (workdir / "checkpoints" / "0" / "checksums.sha256").unlink()


def damaged(workdir: Path) -> None:
    save(workdir, ["phase1"])
    folder = workdir / "checkpoints" / "0"
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "no such folder"),
        (empty, "no complete checkpoint"),
        (half_written, "half-written"),
        (damaged, "checksum differs"),
    ],
)
def test_a_run_that_cannot_be_loaded_is_refused_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    spoil(workdir)
    with pytest.raises(InputError, match=words) as refused:
        inference.load_run(workdir)
    assert str(workdir) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_picture_of_the_right_size_comes_back_as_it_is(tmp_path: Path, split: Split) -> None:
    pixels = split.images[0, :, :9]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(inference.load_image(tmp_path / "a.png", 9), pixels)


@pytest.mark.parametrize("content", [None, "folder", b"", b"text", b"\x89PNG\r\n\x1a\n torn"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "picture.png"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match="picture.png") as refused:
        inference.load_image(path, 8)
    assert "\n" not in str(refused.value)
