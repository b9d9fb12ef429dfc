"""Children end when they are told to, one way or the other."""

from pathlib import Path

import pytest

from cxv_jax.launch import children

ROOT = Path(__file__).parents[2]


def test_a_child_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    log = tmp_path / "log"
    error = children.run(
        "tests.launch.stubborn", [], log, stop=lambda: "ready" in log.read_text(), grace=0.1
    )
    assert error == "ended by SIGKILL after: ready"
