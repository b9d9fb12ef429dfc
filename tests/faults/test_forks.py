"""A run that begins from a copy of another, and is killed, is the run that was never cut."""

from pathlib import Path

from experiments.compare import forks
from tests.faults.harness import Victims, differing, outcome, tiny_config


def test_a_fork_killed_with_kill_9_ends_as_a_run_without_fork(tmp_path: Path) -> None:
    arm = tiny_config()
    arm.handed = "last"
    prefix = forks.prefix_of(arm)
    assert prefix is not None
    with Victims(tmp_path) as victims:
        victims.give(arm)
        assert victims.run(tmp_path / "whole") == 0, victims.said
        victims.give(prefix)
        assert victims.run(tmp_path / "prefix") == 0, victims.said
        victims.give(arm)
        forks.fork(tmp_path / "prefix", tmp_path / "fork")
        for instant in ("start", "handoff", "epoch", "writing", "test"):
            assert victims.run(tmp_path / "fork", instant=instant, act="kill") == -9, victims.said
            forks.fork(tmp_path / "prefix", tmp_path / "fork")  # As the same command does.
        assert victims.run(tmp_path / "fork") == 0, victims.said
    assert differing(tmp_path / "fork", outcome(tmp_path / "whole")) == []
    assert "resuming" in victims.said
