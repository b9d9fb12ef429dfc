"""The notebook runs from top to bottom, here at a reduced size."""

import json
import os
from pathlib import Path

import pytest

from tests.test_commands import ROOT, TINY

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pytest.importorskip("nbclient", reason="pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="pip install '.[notebook]'")
    few = [arg.replace("epochs=2", "epochs=1") for arg in TINY]
    monkeypatch.setenv("CXV_ARGS", " ".join(few))
    monkeypatch.setenv("CXV_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    told = json.dumps(notebook.cells)
    for words in ("handoff", "test top-1", "model.safetensors", "is the most probable class"):
        assert words in told
    assert '"kind": "handoff"' in (tmp_path / "run" / "metrics.jsonl").read_text()
    for name in ("curves.png", "confusion.png", "explanation.png", "export/model.stablehlo"):
        assert (tmp_path / "run" / name).stat().st_size


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
