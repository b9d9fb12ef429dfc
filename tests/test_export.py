"""Exported models: reloaded elsewhere they say what ``predict`` says."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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


def test_safetensors_hold_the_weights_bit_for_bit(workdir: Path, tmp_path: Path) -> None:
    run = inference.load_run(workdir)
    written = export.safetensors(run, tmp_path / "hub")
    assert [path.name for path in written] == ["model.safetensors", "config.json", "README.md"]
    arrays = load_file(written[0])
    leaves = jax.tree_util.tree_leaves_with_path(run.variables)
    assert len(arrays) == len(leaves)
    for path, leaf in leaves:
        np.testing.assert_array_equal(arrays[".".join(key.key for key in path)], leaf)
    assert json.loads(written[1].read_text())["model"]["name"] == "cltv"
    assert "- c0\n" in written[2].read_text()


def test_a_program_that_differs_is_not_written(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, predict = inference.load_run(workdir), inference.predict
    monkeypatch.setattr(inference, "predict", lambda run, images: predict(run, images) + 2e-5)
    with pytest.raises(InputError, match=r"differs from predict by 2.*nothing was written"):
        export.stablehlo(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_onnx(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = SimpleNamespace(name="images")

    class Session:
        def __init__(self, data: bytes):
            self.shift = float(data)

        def get_inputs(self) -> list[SimpleNamespace]:
            return [images]

        def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [inference.predict(run, feed["images"]) + self.shift]

    run = inference.load_run(workdir)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="pip install --no-deps jax2onnx"):
        export.onnx(run, tmp_path)
    made = SimpleNamespace(SerializeToString=lambda: b"0")
    converter = SimpleNamespace(to_onnx=lambda *_, **__: made)
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    assert [path.name for path in export.onnx(run, tmp_path)] == ["model.onnx", "metadata.json"]
    made.SerializeToString = lambda: b"2e-4"
    with pytest.raises(InputError, match="onnx program differs"):
        export.onnx(run, tmp_path)


def test_sizes_are_fixed_where_the_model_has_one(workdir: Path) -> None:
    run = inference.load_run(workdir)
    config = run.config.copy_and_resolve_references()
    config.model.name = "vit"
    assert export.any_size(run)
    assert not export.any_size(dataclasses.replace(run, config=config))
