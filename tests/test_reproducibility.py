"""The same command gives the same figures, also from a record; a record names its code."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cxv_jax import config as configs
from cxv_jax import machine, train
from cxv_jax.errors import InputError
from experiments.configs import from_json
from tests.faults.harness import differing, outcome, tiny_config


def test_the_same_command_and_its_summary_give_the_same_run(tmp_path: Path) -> None:
    summary = train.train_and_evaluate(tiny_config(), tmp_path / "first")
    train.train_and_evaluate(tiny_config(), tmp_path / "second")
    repeated = from_json.get_config(str(tmp_path / "first" / "summary.json"))
    train.train_and_evaluate(repeated, tmp_path / "third")
    reference = outcome(tmp_path / "first")
    assert len(reference["metrics"]) == 6
    for name in ("second", "third"):
        assert differing(tmp_path / name, reference) == []
    assert summary.revision == machine.revision()


def test_a_file_that_no_run_can_be_repeated_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    good = json.loads(tiny_config().to_json())
    for text, words in [
        (None, "summary.json: No such file"),
        ("{", "summary.json is damaged"),
        ('{"config": 3}', "holds no config of a run"),
        ('{"model": {"name": "cltv"}}', "holds no config of a run"),
        (json.dumps({"config": {**good, "phase1": 3}}), "holds no config of a run"),
    ]:
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=words):
            from_json.get_config(str(path))
    older = {name: value for name, value in good.items() if name != "memory_gb"}
    path.write_text(json.dumps({"config": older}))
    assert json.loads(from_json.get_config(str(path)).to_json()) == good


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_the_revision_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=me", "-c", "user.email=me@here"]
        command = ["git", *who, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "-m", "one", "v1")
    commit = git("rev-parse", "HEAD")
    assert machine.revision(tmp_path) == commit
    (tmp_path / "untracked").touch()
    assert machine.revision(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert machine.revision(tmp_path) == f"{commit} (modified)"
    (tmp_path / "folder").mkdir()  # A package installed inside somebody's repository.
    assert machine.revision(tmp_path / "folder") == ""
    monkeypatch.setenv("PATH", "")
    assert machine.revision(tmp_path) == ""


def test_a_phase_of_few_steps_is_told() -> None:
    config = tiny_config()
    config.phase1.epochs, config.phase2.epochs = 3, 5
    assert configs.short_phases(config, 4) == [
        "phase 1 has 12 steps at most (3 x 4), which is few: raise config.phase1.epochs or lower "
        "config.batch_size"
    ]
    config.phase1.epochs = 0
    assert configs.short_phases(config, 4) == []
