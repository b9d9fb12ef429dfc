"""As many epochs as a wall-clock budget allows, from the measured rate of the first steps."""

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from cxv_jax import distributed
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.config import check_config
from cxv_jax.data.sources import untold
from cxv_jax.errors import InputError
from cxv_jax.memory_plan import fit_session
from cxv_jax.phase import Phase
from cxv_jax.run_files import CONFIG, read_json
from cxv_jax.session import Session
from cxv_jax.state import TrainState
from cxv_jax.text import duration

FITTED = ("epochs", "patience", "warmup_epochs")  # Fields of a phase.
SECONDS = 3.0  # Of steps that are measured, and at most a tenth of the budget.
FRESH = 3  # Calls before those.
FINISHING = 2.0  # Seconds for summary and pictures.


class Costs(NamedTuple):
    """Seconds of what a run consists of.

    Attributes:
      start: until its first step is compiled.
      compiling: a step's program, for each phase that follows.
      step: a training step.
      evaluation: of the selection split, once an epoch; 0 where nothing is selected.
      save: of a checkpoint, once an epoch.
      end: the test, and what is written at the end.
    """

    start: float
    compiling: float
    step: float
    evaluation: float
    save: float
    end: float


def within(
    config: ConfigDict,
    workdir: Path,
    minutes: float,
    launched: float,
    say: Callable[[str], None],
) -> ConfigDict:
    """The config with the epochs that fit ``minutes`` since ``launched`` (``time.time()``).

    A run that was begun keeps the epochs it has: it ends with the same bits as one that was never
    interrupted, and later by as long as it stood still.

    Raises:
      InputError: not one epoch fits.
    """
    if not minutes > 0:
        raise InputError(f"minutes={minutes:g} must be above 0")
    config = config.copy_and_resolve_references()
    if (workdir / CONFIG).exists():
        stored = read_json(workdir / CONFIG)
        for phase in Phase:
            before = stored.get(phase.key, {})
            config[phase.key].update({name: before[name] for name in FITTED if name in before})
        return config
    check_config(config)
    begun = time.perf_counter()
    with untold():
        session = fit_session(Session.of(config), lambda text: None)
    loading, steps = time.perf_counter() - begun, session.train_loader.steps_per_epoch
    costs = measured(session, time.time() - launched, loading, 60 * minutes / 10)
    fit(config, costs, steps, 60 * minutes)
    epochs = [config[phase.key].epochs for phase in Phase]
    say(
        f"{minutes:g} minutes: {epochs[0]} + {epochs[1]} epochs of {steps} steps, at "
        f"{1 / costs.step:,.3g} steps/s and {duration(costs.evaluation + costs.save)} after each"
    )
    return config


def fit(config: ConfigDict, costs: Costs, steps: int, seconds: float) -> None:
    """Set the epochs of both phases, shared as they were, and what goes by them.

    Raises:
      InputError: not one epoch fits.
    """
    one, two = config.phase1.epochs, config.phase2.epochs
    epoch = steps * costs.step + costs.evaluation + costs.save
    left = seconds - costs.start - costs.compiling * bool(one and two) - costs.end
    total = distributed.agree(lambda: max(round(left / epoch), 0))()
    if total < 1 + bool(one and two):
        raise InputError(
            f"minutes={seconds / 60:g}: an epoch takes {duration(epoch)}, and all besides "
            f"{duration(seconds - left)}: not one fits; give more time, or fewer images"
        )
    second = min(max(round(total * two / (one + two)), bool(two)), total - bool(one))
    for phase, epochs in ((Phase.ONE, total - second), (Phase.TWO, second)):
        fields = config[phase.key]
        warmup = min(fields.warmup_epochs, epochs // 10)
        fields.update(epochs=epochs, patience=max(epochs, 1), warmup_epochs=warmup)


def measured(session: Session, waited: float, loading: float, most: float) -> Costs:
    """Run the first steps, an evaluation and a save on a state that is then thrown away.

    What was got ready for this is got ready once more for the run itself: compiled programs
    differ by their schedule.

    Args:
      session: of the run.
      waited: seconds since the program was started.
      loading: seconds that the session took to make.
      most: seconds that the steps may take, besides the first one.
    """
    begun = time.perf_counter()
    state, first, step = _steps(session, most)
    split, tests = session.config.selection, len(session.dataset.split("test"))
    if split == "last":
        # A forward pass is a third of a step; its program is compiled at the end.
        evaluation, end = 0.0, tests * step / session.config.batch_size / 3 + first / 2
    else:
        variables = state.variables()
        evaluation = min(_seconds(lambda: session.evaluate(variables, split)) for _ in range(2))
        end = evaluation * tests / len(session.dataset.split(split)) + first / 2
    save = _save_seconds(state)
    so_far = waited + time.perf_counter() - begun
    return Costs(so_far + loading + first, first, step, evaluation, save, end + FINISHING)


def _steps(session: Session, most: float) -> tuple[TrainState, float, float]:
    """A trained state, seconds of the first call, and of a step after the first few."""
    phase, loader = session.phases[Phase.ONE], session.train_loader
    state, times = phase.begin(), []
    for epoch in itertools.count():
        for count, feed in loader.epoch(epoch):
            begun = time.perf_counter()
            state, sums = phase.update(state, session.rng, loader.data, feed)
            jax.block_until_ready(sums)
            times.append((time.perf_counter() - begun) / count)
            later = times[FRESH:]  # The first few get fresh pages from the kernel.
            if later and sum(later) * count >= min(SECONDS, most):
                return state, times[0] * count, sum(later) / len(later)
    raise AssertionError("an epoch has steps")


def _save_seconds(state: TrainState) -> float:
    with tempfile.TemporaryDirectory() as folder, Checkpointer(Path(folder)) as checkpointer:

        def save(step: int) -> None:
            checkpointer.save(step, state, {})
            checkpointer.wait()

        return min(_seconds(partial(save, step)) for step in range(2))


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
