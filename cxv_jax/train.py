"""The one training loop: ``train_and_evaluate(config, workdir)``."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cxv_jax import distributed, divergence, metrics, runs, sharding, track
from cxv_jax.calibration import fit_temperature, mean_loss
from cxv_jax.config import check_config, short_phases
from cxv_jax.errors import InputError
from cxv_jax.evaluation import Evaluation, known
from cxv_jax.figures import mean_known
from cxv_jax.files import sweep
from cxv_jax.final_table import final_table
from cxv_jax.interrupt import Interrupt, Interrupted
from cxv_jax.lock import FolderLock
from cxv_jax.memory_plan import fit_session
from cxv_jax.phase import Phase
from cxv_jax.records import (
    Best,
    CalibrationRecord,
    EpochRecord,
    HandoffRecord,
    PhaseSummary,
    Summary,
)
from cxv_jax.report import CURVES, Report, draw_curves, to_log
from cxv_jax.run_files import kept_splits
from cxv_jax.runs import Run
from cxv_jax.session import Session
from cxv_jax.state import TrainState
from cxv_jax.timings import Timings
from cxv_jax.track import Tracking
from cxv_jax.warm_start import WarmStart
from cxv_jax.warm_start import read as read_weights


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | Path,
    *,
    quiet: bool | None = None,
    fork: bool = False,
    launched: float | None = None,
    timings: Timings | None = None,
    say: Callable[[str], None] = to_log,
) -> Summary:
    """Train both phases, select on validation, read test once at the end.

    Resumes by itself from the latest checkpoint in ``workdir``, to the same result bit for bit on
    the same hardware. Order: steps of an epoch, evaluate, save, next epoch. Metrics are read one
    call late, so the device never waits for the host. With several processes (see
    ``distributed.initialize``) each calls this with the same arguments; the first one writes.

    Args:
      config: see ``experiments/configs``; checked before anything is written.
      workdir: the run's folder.
      quiet: no progress bar; None: where stdout is not a terminal.
      fork: go on although the config differs from the one ``workdir`` was started with.
      launched: when the program was started (``time.time()``), to report the time to the first
        step; None: now.
      timings: to tell with it where those seconds went.
      say: takes what a person is to read, on the first process; ``print`` on a screen.

    Returns:
      The summary that is also written to ``workdir/summary.json``.

    Raises:
      InputError: for bad config, data or checkpoints, a folder that another process trains in,
        and a loss that is not finite.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    launched = time.time() if launched is None else launched
    mark = timings.mark if timings else lambda name: None
    mark("program and imports")
    say = say if jax.process_index() == 0 else to_log
    check_config(config)
    if (summary := runs.finished(Path(workdir), config)) is not None:
        finish_report(Path(workdir), summary, say)
        say("\n".join([f"{workdir} is already finished", *final_table(summary)]))
        return summary
    with FolderLock(workdir) as lock:
        take(lock)
        session, start = wired(config, Path(workdir), say)
        mark("data and model")
        opening = partial(runs.open_run, workdir, config, fork=fork, data=session.stored)
        folder = distributed.together(opening)
        distributed.together(partial(runs.check_joined, folder, config))
        take(lock)  # The folder may be a new one.
        with Interrupt() as interrupt, Run(config, session, folder, lock, start) as run:
            mark("first state, or the last one")
            told: dict[str, Any] = dict(quiet=quiet, say=say, launched=launched, timings=timings)
            with reporting(run, **told) as report:
                report.message(introduction(run))
                mend_best(run, report)
                return run_phases(run, report, interrupt)


def reporting(run: Run, **told: Any) -> Report:
    """The report of a run, from where it stands; ``told`` as :class:`Report` has it."""
    tracking = partial(Tracking, run.config.track, config=run.config.to_dict())
    return Report(
        run.folder, resume_step=int(run.state.step), last=run.last, track=tracking, **told
    )


def wired(
    config: ConfigDict, workdir: Path, say: Callable[[str], None]
) -> tuple[Session, Callable[[], WarmStart]]:
    """The session, and what a new run begins with; what is wrong is refused before any writing."""
    track.check(config.track)
    keep = distributed.together(partial(kept_splits, workdir, config))
    session = fit_session(Session.of(config, keep=keep), say)
    if config.selection != "last":
        session.loader(config.selection)  # Refuses a split that is not there.
    start = functools.cache(partial(read_weights, config, session))
    if not (workdir / "checkpoints").exists():
        distributed.together(start)
    return session, start


def finish_report(folder: Path, summary: Summary, say: Callable[[str], None]) -> None:
    """What a run that was killed after its summary has left undone, where one can write there."""
    if jax.process_index() == 0:
        with contextlib.suppress(InputError, OSError), FolderLock(folder) as lock:
            lock.take()
            sweep(folder)
            if not (folder / CURVES).exists():
                draw_curves(folder, summary, say)


def take(lock: FolderLock) -> None:
    """Keep other runs out of the folder, if it is there; the first of several processes does."""
    distributed.together(lambda: lock.take() if jax.process_index() == 0 else None)


def mend_best(run: Run, report: Report) -> None:
    """Let the latest weights stand in for the best ones, where those are gone."""
    progress, best = run.progress, run.progress.best_so_far()
    for key in run.lost_bests():
        lost = progress.best.pop(key)
        report.message(f"the best weights of {Phase.of_key(key)} (epoch {lost.epoch}) are gone")
    if progress.best_so_far() == best:
        return
    found = figures(run, run.state, run.config.selection)
    latest = dataclasses.replace(found or Best(0.0, 0.0, 0.0), epoch=progress.epoch)
    if found is None or progress.best_so_far() < latest:
        progress.best[progress.phase.key] = latest
        report.message(f"the latest ones (epoch {latest.epoch}) take their place")
        run.save(best_of=progress.phase.key)


def run_phases(run: Run, report: Report, interrupt: Interrupt) -> Summary:
    """What is left of both phases, and the test."""
    while True:
        while run.goes_on():
            run_epoch(run, report, interrupt)
            end_epoch(run, report)
            stop_if_asked(run, interrupt)
        if run.progress.phase is Phase.TWO or not run.config.phase2.epochs:
            return final_test(run, report)
        hand_over(run, report)


def introduction(run: Run) -> str:
    """What was set aside and is about to happen, before the compiler makes the user wait."""
    dataset, progress, step = run.session.dataset, run.progress, int(run.state.step)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    held = f"{sharding.bytes_per_device(run.state) / 1e6:.3g} MB"
    text = "\n".join(run.faults) + "\n" * bool(run.faults)
    text += (
        f"{run.config.model.name} ({parameters:,} parameters) on {dataset.name} ({sizes} images), "
        f"{devices}, state {held} a device; the first step of each phase compiles"
    )
    if not step:
        short = short_phases(run.config, run.session.train_loader.steps_per_epoch)
        return "\n".join([text, *short, *progress.begun_with])
    where = f"{progress.phase}, {progress.epoch} whole epochs done"
    return f"{text}\nresuming {run.folder} from step {step} ({where})"


def run_epoch(run: Run, report: Report, interrupt: Interrupt) -> None:
    """The steps of an epoch, or what is left of it; a signal ends the run with its state saved."""
    progress, loader = run.progress, run.session.train_loader
    update, rng = run.session.phases[progress.phase].update, run.session.rng
    total, done = loader.steps_per_epoch, progress.steps
    report.start_epoch(progress.phase, progress.epoch + 1, total, run.config.batch_size, done)
    run.ahead.wait(progress.phase)
    run.begin_epoch()
    late = None
    for count, feed in loader.epoch(progress.epoch, done):
        asked = distributed.agree(lambda: interrupt.signal)
        with jax.transfer_guard("disallow"):
            run.state, sums = update(run.state, rng, loader.data, feed)
        if late is not None:
            read_metrics(run, report, *late)
        elif jax.process_count() == 1:
            run.session.compile_ahead(run.ahead, progress.phase, feed)
        late = (count, sums)
        if asked():
            break
    if late is not None:
        read_metrics(run, report, *late)
    if progress.steps < total:
        divergence.check(run)
        run.save()
        stop_if_asked(run, interrupt)
    run.end_steps((total - done) * run.config.batch_size)


def read_metrics(run: Run, report: Report, count: int, sums: metrics.Sums) -> None:
    """Wait for the metrics of the call before the running one, and count them in."""
    progress, sums = run.progress, jax.device_get(sums)
    progress.steps += count
    if not math.isfinite(sums["loss"]):
        divergence.stop(run, f"the training loss is {sums['loss']}")
    progress.sums = metrics.total([progress.sums, sums] if progress.sums else [sums])
    report.update(count, **{k: v for k, v in metrics.means(sums).items() if k != "top5"})


def end_epoch(run: Run, report: Report) -> None:
    """Evaluate, report, then save: a resumed run drops the lines beyond its checkpoint."""
    progress = run.progress
    found = figures(run, run.state, run.config.selection)
    divergence.check(run, found.loss if found else 0.0)
    trained = metrics.means(progress.sums)
    improved = progress.end_epoch(found)
    run.last = EpochRecord(
        phase=progress.phase,
        epoch=progress.epoch,
        step=int(run.state.step),
        train_loss=trained["loss"],
        train_top1=trained["top1"],
        val_loss=_field(found, "loss"),
        val_top1=_field(found, "top1"),
        val_top5=_field(found, "top5"),
        best_top1=progress.best_so_far().top1 if found else None,
        improved=improved,
        patience_left=run.config[progress.phase.key].patience - progress.patience,
        learning_rate=run.learning_rate,
        images_per_second=progress.rates[-1],
        seconds=run.epoch_seconds,
        selection=run.config.selection,
        select_by=run.config.select_by,
        val_score=_field(found, "score"),
        best_score=progress.best_so_far().score if found else None,
    )
    report.end_epoch(run.last)
    run.save(best_of=progress.phase.key if improved else None)


def figures(run: Run, state: TrainState, split: str) -> Best | None:
    """What a split says of a state; None where the data set has no such split."""
    if split not in run.session.dataset.splits:
        return None
    run.ahead.wait(split)
    results = run.session.evaluate(state.variables(), split)
    return Best(
        results.top1,
        results.loss,
        results.top5,
        balanced_accuracy=results.by_class.balanced_accuracy,
        macro_f1=results.by_class.macro_f1,
        by=run.config.select_by,
    )


def hand_over(run: Run, report: Report) -> None:
    """Hand the best weights over to the second optimizer."""
    progress, best, state = run.progress, run.progress.best_so_far(), run.state
    if progress.best and run.config.handed == "best":
        state = dataclasses.replace(run.restore_best(Phase.ONE), step=state.step)
    run.state = run.session.phases[Phase.TWO].hand_over(state)
    progress.phase, progress.phase_epoch, progress.patience = Phase.TWO, 0, 0
    step = int(run.state.step)
    if run.config.handed == "last":
        top1, epoch = run.last.val_top1 if run.last else None, progress.epoch
    else:
        known = run.config.selection != "last"
        top1, epoch = max(best.top1, 0.0) if known else None, best.epoch
    report.hand_over(HandoffRecord(Phase.TWO, progress.epoch, step, top1, epoch))


def final_test(run: Run, report: Report) -> Summary:
    """Read test, here and nowhere else, and write what the run has come to."""
    progress, phases, test = run.progress, {}, None
    for key, best in progress.best.items():
        try:
            state = run.restore_best(Phase.of_key(key))
        except InputError as fault:
            if key == max(progress.best):
                raise
            report.message(f"{Phase.of_key(key)} has no test figure: {fault}")
            continue
        test = run.session.evaluate(state.variables(), "test")
        # Without selection validation is read once too, for whoever tunes by it.
        val = figures(run, state, "val") if run.config.selection == "last" else best
        phases[key] = PhaseSummary(
            epoch=best.epoch,
            val_top1=_field(val, "top1"),
            val_top5=_field(val, "top5"),
            val_loss=_field(val, "loss"),
            test_top1=test.top1,
            test_top5=test.top5,
            test_loss=test.loss,
            val_balanced_accuracy=_field(val, "balanced_accuracy"),
            val_macro_f1=_field(val, "macro_f1"),
            test_balanced_accuracy=test.by_class.balanced_accuracy,
            test_macro_f1=test.by_class.macro_f1,
            test_auroc=known(mean_known(test.auroc)),
        )
    if run.config.phase2.epochs and Phase.TWO.key not in phases:  # The best are still these.
        phases[Phase.TWO.key] = phases[Phase.ONE.key]
    tested = test.records(run.session.dataset.class_names) if test else {}
    if test:
        tested["calibration"] = calibrate(run, state, test)
    if test and best.epoch == progress.epoch:  # The best weights are the last ones.
        last = test.top1
    else:
        last = run.session.evaluate(run.state.variables(), "test").top1
    summary = run.summary(phases, last_test_top1=last, **tested)
    run.checkpointer.close()
    report.finish(summary)
    multihost_utils.sync_global_devices("finished")  # Nobody leaves before the report is there.
    return summary


def calibrate(run: Run, state: TrainState, test: Evaluation) -> CalibrationRecord:
    """How calibrated the last phase's best weights are, and a temperature from validation."""
    step = run.checkpointer.best_step(max(run.progress.best))
    record = CalibrationRecord(ece=test.reliability().error, step=-1 if step is None else step)
    if "val" not in run.session.dataset.splits:
        return record
    val = run.session.evaluate(state.variables(), "val")
    record = dataclasses.replace(record, images=val.count)
    if (temperature := fit_temperature(val.logits, val.labels)) is None:
        return record
    return dataclasses.replace(
        record,
        temperature=temperature,
        calibrated_ece=test.reliability(temperature).error,
        calibrated_loss=mean_loss(test.logits, test.labels, temperature),
    )


def stop_if_asked(run: Run, interrupt: Interrupt) -> None:
    """Leave by an exception where a signal has come to any process; the state is saved."""
    if number := distributed.agree(lambda: interrupt.signal)():
        run.checkpointer.close()
        where = f"saved step {int(run.state.step)} in {run.folder}"
        raise Interrupted(number, f"{where}; run the same command to continue")


def _field(found: Best | None, name: str) -> float | None:
    """A figure; None where it is not known (below 0: an older version did not count it)."""
    return None if found is None or getattr(found, name) < 0 else getattr(found, name)
