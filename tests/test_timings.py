"""Stages of the start: the clock's seconds, and what JAX did in them."""

import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cxv_jax import train
from cxv_jax.timings import COLUMNS, Timings
from tests.test_train import tiny_config


def test_stages_add_up_and_hear_what_jax_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", iter([13.0, 14.5]).__next__)
    timings = Timings(10.0)
    told = jax.monitoring.record_event_duration_secs
    told("/jax/core/compile/jaxpr_trace_duration", 0.25)
    told("/jax/core/compile/jaxpr_trace_duration", 0.5)
    timings.mark("one")
    told("/jax/core/compile/backend_compile_duration", 1.25)
    told("/jax/compilation_cache/cache_retrieval_time_sec", 9.0)
    beside = threading.Thread(target=told, args=("/jax/core/compile/backend_compile_duration", 7.0))
    beside.start()
    beside.join()
    timings.mark("two")
    rows = [line.split() for line in timings.table().splitlines()]
    assert rows == [
        ["seconds", "clock", *COLUMNS],
        ["one", "3.00", "0.75"],
        ["two", "1.50", "8.25"],
        ["in", "all", "4.50", "0.75", "8.25"],
    ]
    told("/jax/core/compile/jaxpr_trace_duration", 1.0)
    assert not timings._heard


def test_a_run_tells_them_after_its_first_step(tmp_path: Path) -> None:
    lines: list[str] = []
    launched = time.time()
    config = tiny_config()
    config.phase1.epochs, config.phase2.epochs = 1, 0
    train.train_and_evaluate(
        config, tmp_path, launched=launched, timings=Timings(launched), say=lines.append
    )
    (at,) = (i for i, line in enumerate(lines) if line.startswith("first step after"))
    table = lines[at + 1].splitlines()
    names = ("program and imports", "data and model", "first state", "first step", "in all")
    assert [line.startswith(name) for line, name in zip(table[1:], names, strict=True)] == [
        True
    ] * 5
    assert jnp.ones(2).sum() == 2  # Nobody listens any more.
