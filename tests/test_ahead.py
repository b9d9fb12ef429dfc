"""Tests of what compiles beside the training: the calls that follow compile nothing."""

from pathlib import Path

import jax
import pytest

from cxv_jax.ahead import Ahead
from cxv_jax.evaluation import Evaluator
from cxv_jax.phase import Phase
from cxv_jax.session import Session, WiredPhase
from cxv_jax.train import train_and_evaluate
from tests.test_train import tiny_config


def compilations() -> list[str]:
    """Filled by JAX with an entry for every program that it compiles or loads."""
    seen: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seen


def test_evaluation_and_phase_two_are_ready() -> None:
    session, ahead, seen = Session.of(tiny_config("cltv")), Ahead(), compilations()
    loader, state = session.train_loader, session.phases[Phase.ONE].begin()
    feed = next(iter(loader.epoch(0)))[1]
    session.compile_ahead(ahead, Phase.ONE, feed)
    ahead.wait("val")
    ahead.wait(Phase.TWO)
    variables, state = state.variables(), session.phases[Phase.TWO].hand_over(state)
    feed, rng = next(iter(loader.epoch(1)))[1], session.rng
    before = len(seen)
    session.evaluate(variables, "val")
    session.phases[Phase.TWO].update(state, rng, loader.data, feed)
    assert len(seen) == before > 0
    ahead.close()


def test_a_run_asks_for_both_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, waited = [], []
    for owner in (Evaluator, WiredPhase):
        monkeypatch.setattr(owner, "lower", lambda self, *_: asked.append(type(self)))
    monkeypatch.setattr(Ahead, "wait", lambda self, name: waited.append(name))
    train_and_evaluate(tiny_config("cltv"), tmp_path / "run")
    assert asked == [WiredPhase, Evaluator, WiredPhase]
    assert {Phase.ONE, "val", Phase.TWO} <= set(waited)


def test_the_first_update_compiles_while_the_state_is_made() -> None:
    session, ahead, seen = Session.of(tiny_config("cltv")), Ahead(), compilations()
    session.compile_first(ahead)
    loader, state, rng = session.train_loader, session.phases[Phase.ONE].begin(), session.rng
    feed = next(iter(loader.epoch(0)))[1]
    ahead.wait(Phase.ONE)
    before = len(seen)
    session.phases[Phase.ONE].update(state, rng, loader.data, feed)
    assert len(seen) == before > 0
    ahead.close()


def test_what_cannot_compile_is_left_to_the_call() -> None:
    ahead = Ahead()
    ahead.compile("bad", lambda: 1 / 0)
    ahead.wait("bad")
    ahead.wait("unknown")
    ahead.compile("bad", lambda: pytest.fail("was asked before"))
    ahead.close()
