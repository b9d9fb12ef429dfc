"""Exported models: reloaded elsewhere they say what ``predict`` says."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from cxv_jax import export, inference
from cxv_jax.errors import InputError
from tests.test_inference import save
from tests.test_inference_commands import run_command

ELSEWHERE = """
import sys
sys.modules["cxv_jax"] = None  # Importing it fails.
import jax, numpy as np
model = jax.export.deserialize(open(sys.argv[1], "rb").read())
found = [np.asarray(model.call(np.load(name))) for name in sys.argv[3:]]
np.savez(sys.argv[2], *found)
print(*model.platforms)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder, ["phase1"], model="cltv")
    return folder


def test_stablehlo_runs_where_our_package_cannot_be_imported(workdir: Path, tmp_path: Path) -> None:
    run_command("export", f"--workdir={workdir}", f"--output={tmp_path}")
    run, draw, names = inference.load_run(workdir), np.random.default_rng(1), []
    batches = [
        draw.integers(0, 256, shape, dtype=np.uint8)
        for shape in [(1, 9, 11, 3), (7, 9, 11, 3), (7, 16, 12, 3)]
    ]
    for i, images in enumerate(batches):
        np.save(tmp_path / f"{i}.npy", images)
        names.append(f"{tmp_path}/{i}.npy")
    command = [
        sys.executable,
        "-c",
        ELSEWHERE,
        f"{tmp_path}/model.stablehlo",
        f"{tmp_path}/out.npz",
    ]
    done = subprocess.run([*command, *names], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]
    with np.load(tmp_path / "out.npz") as found:
        for i, images in enumerate(batches):
            expected = inference.predict(run, images)
            np.testing.assert_allclose(found[f"arr_{i}"], expected, atol=1e-5)
    facts = json.loads((tmp_path / "metadata.json").read_text())
    assert facts["classes"] == list(run.class_names)
    assert facts["any_size"] is True


def test_safetensors_hold_the_weights_bit_for_bit_and_the_card_tells_their_use(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dataclasses.replace(inference.load_run(workdir), temperature=1.5)
    written = export.safetensors(run, tmp_path / "hub")
    assert [path.name for path in written] == ["model.safetensors", "config.json", "README.md"]
    arrays = load_file(written[0])
    leaves = jax.tree_util.tree_leaves_with_path(run.variables)
    assert len(arrays) == len(leaves)
    for path, leaf in leaves:
        np.testing.assert_array_equal(arrays[".".join(key.key for key in path)], leaf)
    assert json.loads(written[1].read_text())["model"]["name"] == "cltv"
    card = written[2].read_text()
    assert "- c0\n" in card
    snippet = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)[0]
    found: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "hub")
    with jax.numpy_rank_promotion("allow"):
        exec(snippet, found)
    black = np.zeros((1, *run.image_shape), np.uint8)
    np.testing.assert_allclose(found["probabilities"], inference.predict(run, black), atol=1e-5)


def test_the_card_is_one_that_a_hub_reads(workdir: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="pip install '.[hf]'")
    card = hub.ModelCard(export.card(inference.load_run(workdir)))
    assert (card.data.library_name, card.data.pipeline_tag) == ("cxv_jax", "image-classification")
    assert card.data.tags == ["jax", "flax", "image-classification"]
    assert card.text.strip().startswith("# cltv\n")


def test_a_program_that_differs_is_not_written(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, predict = inference.load_run(workdir), inference.predict
    monkeypatch.setattr(inference, "predict", lambda run, images: predict(run, images) + 2e-5)
    with pytest.raises(InputError, match=r"differs from predict by 2.*nothing was written"):
        export.stablehlo(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Onnx:
    """What jax2onnx and onnxruntime would make; ``shift`` is the fault of the program."""

    def __init__(self, run: inference.Run):
        self.run, self.shift = run, 0.0
        self.facts: dict[str, str] = {}
        self.metadata_props = SimpleNamespace(add=self.describe)
        self.SessionOptions = SimpleNamespace

    def describe(self, key: str, value: str) -> None:
        self.facts[key] = value

    def to_onnx(self, *_: Any, **__: Any) -> "Onnx":
        return self

    def SerializeToString(self) -> bytes:  # noqa: N802
        return b"program"

    def InferenceSession(self, data: bytes, _: Any) -> SimpleNamespace:  # noqa: N802
        def run(_: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [inference.predict(self.run, feed["images"]) + self.shift]

        return SimpleNamespace(run=run)


def test_onnx_is_checked_and_what_is_missing_or_fails_is_one_line(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Onnx(run := inference.load_run(workdir))
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="pip install --no-deps jax2onnx"):
        export.onnx(run, tmp_path)
    monkeypatch.setitem(sys.modules, "jax2onnx", made)
    monkeypatch.setitem(sys.modules, "onnxruntime", made)
    assert [path.name for path in export.onnx(run, tmp_path)] == ["model.onnx", "metadata.json"]
    assert json.loads(made.facts["classes"]) == list(run.class_names)
    assert json.loads((tmp_path / "metadata.json").read_text())["any_size"] is False
    made.shift = 2e-4
    with pytest.raises(InputError, match="onnx program differs"):
        export.onnx(run, tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no rule for 'fft'")

    made.to_onnx = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match="cannot convert cltv: NotImplementedError: no rule"):
        export.onnx(run, tmp_path)


@pytest.mark.parametrize("model", ["cpv", "cnv", "cltv", "cxv_nano"])
def test_onnx_says_what_predict_says(model: str, tmp_path: Path) -> None:
    pytest.importorskip("jax2onnx", reason="in an environment of its own: docs/own_pictures.md")
    import onnxruntime

    save(tmp_path, ["phase1"], model=model)
    run = inference.load_run(tmp_path)
    with jax.numpy_rank_promotion("allow"):  # Its own code promotes.
        export.onnx(run, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 7):
        draw = np.random.default_rng(count)
        images = draw.integers(0, 256, (count, *run.image_shape), dtype=np.uint8)
        found = session.run(["probabilities"], {"images": images})[0]
        np.testing.assert_allclose(found, inference.predict(run, images), atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(run.class_names)


def test_sizes_are_fixed_where_the_model_has_one(workdir: Path) -> None:
    run = inference.load_run(workdir)
    config = run.config.copy_and_resolve_references()
    config.model.name = "vit"
    assert export.takes_any_size(run)
    assert not export.takes_any_size(dataclasses.replace(run, config=config))
