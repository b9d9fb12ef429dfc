"""A run and its folder: opened, compared with its config, resumed, saved, finished."""

import json
import logging
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cxv_jax import distributed, machine, optimizer
from cxv_jax.ahead import Ahead
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.config import completed, differences, without_place
from cxv_jax.data.stored import Stored, check
from cxv_jax.errors import InputError
from cxv_jax.files import sweep, write_text
from cxv_jax.jsonable import read
from cxv_jax.lock import FolderLock
from cxv_jax.phase import Phase
from cxv_jax.records import DataRecord, EpochRecord, Meta, PhaseSummary, Progress, Summary
from cxv_jax.run_files import CONFIG, DATA, SUMMARY, cuts_anew, plain, read_json
from cxv_jax.session import Session
from cxv_jax.state import TrainState
from cxv_jax.warm_start import WarmStart


class Run:
    """A run while it trains, resumed from the latest checkpoint in its folder; a context manager.

    Args:
      config: the user's.
      session: that trains it, within the memory that the config allows.
      folder: the run's.
      lock: of the folder, asked before each save whether the folder is still there.
      start: what a new run begins with; not asked where one goes on.

    Attributes:
      config: the user's.
      session: that trains it, within the memory that the config allows.
      folder: the run's.
      checkpointer: closed on leaving.
      ahead: compiles what is called later; closed on leaving.
      faults: of checkpoints that are damaged and were set aside, a line each.
      state: the arrays.
      progress: where the run stands besides.
      last: the record of the last epoch, None before there is one.
      epoch_seconds: of the steps of the last epoch.
    """

    def __init__(
        self,
        config: ConfigDict,
        session: Session,
        folder: Path,
        lock: FolderLock,
        start: Callable[[], WarmStart] = WarmStart,
    ):
        self.config, self.session, self.folder = config, session, folder
        self.checkpointer, self.ahead = Checkpointer(folder / "checkpoints"), Ahead()
        self._lock, self._start = lock, start
        self.last: EpochRecord | None = None
        self.faults = distributed.together(self._set_aside)
        self.state, self.progress = self._begin()
        self.epoch_seconds = 0.0
        self._started = time.perf_counter() - self.progress.seconds  # No clock that is set.

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *_: Any) -> None:
        self.ahead.close()
        try:
            self.checkpointer.close()  # Waits for the save in flight.
        except InputError as fault:
            if kind is None:
                raise
            if str(fault) != str(error):  # What ended the run goes first.
                logging.getLogger(__name__).error("%s", fault)

    def goes_on(self) -> bool:
        """Whether the running phase has another epoch."""
        phase = self.config[self.progress.phase.key]
        return self.progress.phase_epoch < phase.epochs and self.progress.patience < phase.patience

    def begin_epoch(self) -> None:
        """Start the clock."""
        self._epoch_started = time.perf_counter()

    def end_steps(self, images: int) -> None:
        """Stop the clock on the steps of an epoch, which saw so many images."""
        self.epoch_seconds = time.perf_counter() - self._epoch_started
        self.progress.rates.append(images / self.epoch_seconds)

    def save(self, best_of: str | None = None) -> None:
        """Checkpoint the run; ``best_of`` is the key of the phase whose best weights these are."""
        self._lock.check()
        self.progress.seconds = time.perf_counter() - self._started
        dataset = self.session.dataset
        data = DataRecord(
            class_names=dataset.class_names,
            image_shape=dataset.image_shape,
            name=dataset.name,
            white=dataset.white,
            digest=self.session.stored.digest,
        )
        meta = Meta(self.config.to_dict(), data, self.progress, self.config.selection, self.last)
        self.checkpointer.save(int(self.state.step), self.state, meta.to_json(), best_of=best_of)

    def restore_best(self, phase: Phase) -> TrainState:
        """The state of the best epoch of a phase.

        Raises:
          InputError: if its checkpoint is gone or damaged.
        """
        best = self.checkpointer.best_step(phase.key)
        if best is None:
            raise InputError(
                f"the checkpoint with the best weights of {phase} is gone: start a new run"
            )
        return self.checkpointer.restore(best, self.session.phases[phase].template)

    @property
    def learning_rate(self) -> float:
        """The largest of the optimizer's."""
        rates = optimizer.learning_rates(self.state.opt_state)
        return float(max(jax.device_get(list(rates.values()))))

    def lost_bests(self) -> list[str]:
        """Keys of the phases whose best weights are no longer among the checkpoints."""
        return [
            key for key, best in self.progress.best.items() if self._best_epoch(key) != best.epoch
        ]

    def _best_epoch(self, key: str) -> int | None:
        step = self.checkpointer.best_step(key)
        if step is None:
            return None
        progress = self._meta(step).progress
        return None if progress is None else progress.epoch

    def summary(self, phases: dict[str, PhaseSummary], **tested: Any) -> Summary:
        """What the finished run says of itself; ``tested``: its fields about test."""
        last = phases[max(phases)]
        return Summary(
            workdir=str(self.folder),
            dataset=self.session.dataset.name,
            model=self.config.model.name,
            seed=self.config.seed,
            selection=self.config.selection,
            test_top1=last.test_top1,
            test_top5=last.test_top5,
            phases=phases,
            epochs=self.progress.epoch,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(self.state.params)),
            images_per_second=statistics.median(self.progress.rates),
            seconds=self.progress.seconds,
            begun_with=self.progress.begun_with,
            config=plain(self.config),
            **tested,
            **machine.environment(),
        )

    def _set_aside(self) -> list[str]:
        return self.checkpointer.set_aside() if jax.process_index() == 0 else []

    def _meta(self, step: int) -> Meta:
        where = f"the record of checkpoint {step} in {self.folder}"
        return read(Meta, self.checkpointer.meta(step), where)

    def _begin(self) -> tuple[TrainState, Progress]:
        latest = self.checkpointer.latest_step()
        if latest is None:
            start = self._start()
            if jax.process_count() == 1:
                self.session.compile_first(self.ahead)
            begun = self.session.phases[Phase.ONE].begin(start.arrays)
            return begun, Progress(begun_with=list(start.told))
        meta = self._meta(latest)
        progress, data, self.last = meta.progress, meta.dataset, meta.last
        if progress is None:
            raise InputError(
                f"{self.folder} holds imported weights: to train them name another workdir, and "
                f"config.init_from={self.folder}"
            )
        if not cuts_anew(meta.config, plain(self.config)):
            now = self.session.stored
            check(self.session.dataset.name, now, data.class_names, data.digest)
        template = self.session.phases[progress.phase].template
        return self.checkpointer.restore(latest, template), progress


def open_run(workdir: str | Path, config: ConfigDict, *, fork: bool, data: Stored) -> Path:
    """Make the folder, or check that it belongs to this config.

    With ``fork`` the folder's old config is kept as ``config.N.json`` and training goes on under
    the new one. Of several processes all compare and the first writes; :func:`check_joined` is to
    follow when it has. The splits are written before the config, so that no config lacks them.

    Raises:
      InputError: if the config differs from the folder's, naming the fields; if the path is a file.
    """
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir={workdir} is a file; name a folder")
    path, text = workdir / CONFIG, config.to_json(indent=2, sort_keys=True) + "\n"
    stored = completed(read_json(path)) if path.exists() else None
    differing = differences(stored, json.loads(text)) if stored else []
    if differing and not fork:
        raise InputError(
            f"{workdir} was started with another config: {'; '.join(differing)}. Name another "
            "workdir, or pass fork=True to go on from its checkpoint with the new config"
        )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        sweep(workdir)
        if differing:  # A copy: whoever else reads the config now finds the old or the new one.
            number = len(list(workdir.glob("config.*.json"))) + 1
            shutil.copy(path, workdir / f"config.{number}.json")
        write_text(workdir / DATA, json.dumps(data.to_json()) + "\n")
        write_text(path, text)
    return workdir


def check_joined(workdir: Path, config: ConfigDict) -> None:
    """Whether this process and the first one mean the same run.

    Raises:
      InputError: if they see different folders, or were given different configs.
    """
    path = workdir / CONFIG
    if not path.exists():
        raise InputError(f"workdir={workdir} must be one folder that all processes see")
    if differing := differences(read_json(path), plain(config)):
        raise InputError(f"the first process was given another config: {'; '.join(differing)}")


def finished(workdir: Path, config: ConfigDict) -> Summary | None:
    """The summary of a run that this config has brought to its end, else None.

    Where the data lie does not count: a finished run is one on another machine too.
    """
    path = workdir / SUMMARY
    summary = read_json(path) if path.exists() else None
    stored = summary.get("config") if summary else None
    if not summary or not isinstance(stored, dict):
        return None
    if differences(without_place(completed(stored)), without_place(plain(config))):
        return None
    return read(Summary, summary, path)
