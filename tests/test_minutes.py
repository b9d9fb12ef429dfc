"""A budget in minutes becomes epochs: hand-computed; kept on resume; measured without a trace."""

import math
from pathlib import Path

import pytest

from cxv_jax import minutes
from cxv_jax.errors import InputError
from cxv_jax.files import write_text
from cxv_jax.session import Session
from tests.test_train import tiny_config

COSTS = minutes.Costs(start=10, compiling=5, step=0.1, evaluation=1.0, save=0.5, end=3)
STEPS = 20  # An epoch takes 20 x 0.1 + 1.5 = 3.5 seconds.


def test_epochs_fill_the_budget_and_are_shared_as_they_were() -> None:
    config = tiny_config()
    config.phase1.update(epochs=40, patience=3, warmup_epochs=5)
    config.phase2.update(epochs=20, patience=3)
    minutes.fit(config, COSTS, STEPS, 120)
    # 120 - 10 - 5 - 3 = 102 seconds are 29.1 epochs, of which a third is 9.7.
    assert (config.phase1.epochs, config.phase2.epochs) == (19, 10)
    assert (config.phase1.patience, config.phase2.patience) == (19, 10)
    assert config.phase1.warmup_epochs == 1


def test_a_phase_that_was_left_out_stays_out() -> None:
    config = tiny_config()
    config.phase1.epochs, config.phase2.epochs = 7, 0
    minutes.fit(config, COSTS, STEPS, 120)
    # Nothing is compiled a second time: 107 seconds are 30.6 epochs.
    assert (config.phase1.epochs, config.phase2.epochs) == (31, 0)
    with pytest.raises(InputError, match="minutes=0.24: an epoch takes 3.5 s, and all besides 13"):
        minutes.fit(config, COSTS, STEPS, 14.4)
    with pytest.raises(InputError, match="minutes=-1 must be above 0"):
        minutes.within(config, Path("absent"), -1, 0.0, print)


def test_a_run_that_was_begun_keeps_its_epochs(tmp_path: Path) -> None:
    config = tiny_config()
    config.phase1.update(epochs=3, patience=3)
    write_text(tmp_path / "config.json", config.to_json())
    found = minutes.within(tiny_config(), tmp_path, 30, 0.0, print)
    assert found.to_json() == config.to_json()


def test_the_first_steps_are_measured() -> None:
    session = Session.of(tiny_config())
    costs = minutes.measured(session, waited=100.0, loading=7.0, most=0.1)
    assert all(0 < x < math.inf for x in costs)
    assert costs.start > 107 + costs.compiling
    assert costs.step < costs.compiling
