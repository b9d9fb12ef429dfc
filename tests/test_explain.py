"""Explanations against closed forms; mistakes against all probabilities; the command's pictures."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cxv_jax import explain, inference
from cxv_jax.augment import normalise
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from tests.test_inference import CLASSES, SHAPE, save
from tests.test_inference_commands import run_command

IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> inference.Run:
    folder = tmp_path_factory.mktemp("run")
    save(folder, ["phase1"])
    loaded = inference.load_run(folder)
    draw = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + draw.normal(0, 0.3, x.shape).astype(np.float32), loaded.variables["params"]
    )
    return dataclasses.replace(loaded, variables={**loaded.variables, "params": params})


def test_grad_cam_of_a_mean_and_a_dense_head_is_the_class_activation_map(
    run: inference.Run,
) -> None:
    """The gradient of ``mean(A) W`` is ``W / pixels`` everywhere (Zhou et al. 2016)."""
    run = dataclasses.replace(run, temperature=1.7)
    found = explain.explain(run, IMAGES)
    out: Any = run.model.apply(
        run.variables,
        normalise(jnp.asarray(IMAGES), *run.scaling),
        train=False,
        mutable=["intermediates"],
    )
    (features,) = out[1]["intermediates"]["features"]
    probabilities = np.asarray(jax.nn.softmax(out[0] / 1.7))
    np.testing.assert_array_equal(found.classes, probabilities.argmax(1))
    np.testing.assert_allclose(found.probabilities, probabilities.max(1), rtol=1e-5)
    kernel = np.asarray(run.variables["params"]["head"]["kernel"])
    for image, label, cam in zip(np.asarray(features), found.classes, found.grad_cam, strict=True):
        expected = np.maximum(image @ kernel[:, label], 0)
        np.testing.assert_allclose(cam, expected / expected.max(), rtol=1e-4, atol=1e-5)


def test_the_tokens_are_those_of_the_last_attention_in_their_places(run: inference.Run) -> None:
    tokens = explain.explain(run, IMAGES).tokens
    assert tokens is not None
    assert tokens.shape == (5, *SHAPE[:2])
    np.testing.assert_allclose(tokens.mean((1, 2)), 1, rtol=1e-3)  # FAVOR's rows sum to 1.
    kept = {
        "block_9": {"token_weights": (np.zeros((2, 12, 3)),)},
        "block_10": {"token_weights": (np.arange(72.0).reshape(2, 12, 3),)},
    }
    found = explain._tokens(kept, (6, 8))
    assert found is not None
    assert found.shape == (2, 3, 4)
    np.testing.assert_allclose(found[1], 12 * np.arange(37, 73, 3).reshape(3, 4))
    assert explain._tokens({}, (6, 8)) is None


def test_a_class_token_has_no_place() -> None:
    values = np.arange(26.0).reshape(2, 13)
    np.testing.assert_array_equal(explain._as_map(values, (3, 4)), values[:, 1:].reshape(2, 3, 4))
    with pytest.raises(InputError, match="15 tokens are no map of an image of 8 x 8"):
        explain._as_map(np.zeros((1, 15)), (8, 8))


def test_the_most_confident_mistakes_come_first(run: inference.Run) -> None:
    draw = np.random.default_rng(2)
    images = draw.integers(0, 256, (37, *SHAPE), np.uint8)
    split = Split(images, draw.integers(0, CLASSES, 37).astype(np.int32))
    probabilities = inference.predict(run, images)
    wrong = [i for i in range(37) if probabilities[i].argmax() != split.labels[i]]
    wrong.sort(key=lambda i: -probabilities[i].max())
    found = explain.mistakes(run, split, 6)
    assert [x.row for x in found] == wrong[:6]
    assert [x.said for x in found] == probabilities[wrong[:6]].argmax(1).tolist()
    assert [x.true for x in found] == split.labels[wrong[:6]].tolist()


def test_the_command_draws_images_and_tells_what_they_are_taken_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "run", ["phase1"])
    for i, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    names = [tmp_path / f"{i}.png" for i in range(3)]
    run_command("explain", f"--workdir={tmp_path}/run", *names)
    lines = capsys.readouterr().out.splitlines()
    best = inference.predict(inference.load_run(tmp_path / "run"), IMAGES[:3])
    for line, row, i in zip(lines, best, range(3), strict=False):
        assert line == f"{i}.png, taken for c{row.argmax()} {100 * row.max():.0f} %"
    assert lines[3:] == [f"written: {tmp_path}/run/explanation.png"]
    with Image.open(tmp_path / "run" / "explanation.png") as picture:
        assert picture.width > picture.height > 100
    with pytest.raises(InputError, match="absent.png: no such file"):
        run_command("explain", f"--workdir={tmp_path}/run", tmp_path / "absent.png")
