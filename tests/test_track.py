"""Trackers: stand-ins for their packages get every figure; no run fails by one."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxv_jax import track
from cxv_jax.errors import InputError
from cxv_jax.report import Report
from tests.test_report import epoch_record, handoff_record, summary

CONFIG = {"seed": 0, "phase1": {"learning_rate": 1e-3, "augment": {"flip": True}}}


class Calls(list):
    """Whatever is called is written down; each call returns another one of these."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> "Calls":
            self.append((name, args, kwargs))
            return self

        return SimpleNamespace(update=lambda x: call("summary", x)) if name == "summary" else call


def report(name: str, folder: Path) -> None:
    def tracking(workdir: Path) -> track.Tracking:
        return track.Tracking(name, workdir, CONFIG)

    with Report(folder / "mine", quiet=True, track=tracking) as shown:
        shown.end_epoch(epoch_record(1))
        shown.hand_over(handoff_record(1))
        shown.end_epoch(epoch_record(2, val_loss=None))
        shown.finish(summary(folder / "mine"))


def test_wandb_gets_config_and_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", module := Calls())
    report("wandb", tmp_path)
    (start, _, options), *logged, final, end = module
    assert (start, options["name"], options["config"]) == ("init", "mine", CONFIG)
    assert (options["id"].isalnum(), options["resume"]) == (True, "allow")
    assert [(name, kwargs["step"]) for name, _, kwargs in logged] == [("log", 10), ("log", 20)]
    assert logged[0][1][0]["loss/train"] == 2.0
    assert logged[0][1][0]["top1/val"] == 0.98765
    assert "loss/val" not in logged[1][1][0]
    assert final[1][1] == {"test_top1": 0.9833, "test_top5": 0.999}
    assert end[0] == "finish"


def test_mlflow_gets_config_and_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", module := Calls())
    report("mlflow", tmp_path)
    names = [name for name, _, _ in module]
    assert names == ["start_run", "log_params", *["log_metrics"] * 3, "end_run"]
    assert module[1][1][0] == {
        "seed": "0",
        "phase1.learning_rate": "0.001",
        "phase1.augment.flip": "True",
    }
    assert module[2][2] == {"step": 10}
    assert module[4][1][0]["test_top1"] == 0.9833


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setitem(sys.modules, "mlflow", module := Calls())
    monkeypatch.setattr(module, "log_metrics", fail, raising=False)
    monkeypatch.setattr(logging.getLogger("cxv_jax"), "propagate", True)
    report("mlflow", tmp_path)
    assert [r.getMessage() for r in caplog.records] == [
        "mlflow takes no more figures of this run (ConnectionError: no network); metrics.jsonl has "
        "them all"
    ]
    assert (tmp_path / "mine" / "summary.json").exists()


def test_what_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    track.check("")
    with pytest.raises(InputError, match="config.track='wand' is unknown; did you mean 'wandb'"):
        track.check("wand")
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs its package: pip install mlflow"):
        track.check("mlflow")
