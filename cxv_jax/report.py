"""What a person sees of a run: progress bar, lines, TensorBoard, metrics.jsonl, summary, curves."""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from cxv_jax import plots
from cxv_jax.files import write_text
from cxv_jax.final_table import final_table, test_line
from cxv_jax.journal import Journal
from cxv_jax.phase import Phase
from cxv_jax.records import EpochRecord, HandoffRecord, Summary
from cxv_jax.text import duration, percent
from cxv_jax.timings import Timings
from cxv_jax.track import Tracking

CURVES = "curves.png"
EVERY = 3.0  # Seconds between two lines about epochs; all are in metrics.jsonl.
SCALARS = {
    "train_loss": "loss/train",
    "val_loss": "loss/{split}",
    "train_top1": "top1/train",
    "val_top1": "top1/{split}",
    "val_top5": "top5/{split}",
    "val_score": "selected_by/{split}",
    "best_top1": "top1/best",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
    "phase": "phase",
}


NAMES = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}


def to_log(text: str) -> None:
    """Where a library says things."""
    logging.getLogger(__name__).info(text)


class Report:
    """Reports one run, on the screen and in its folder; a context manager.

    Only the first process of several says or writes anything.

    Args:
      workdir: the run's folder; made if it is not there.
      quiet: no progress bar, for logs; None: where stdout is not a terminal.
      resume_step: the step training goes on from. What was recorded beyond it is dropped, since it
        is computed again; TensorBoard hides it.
      last: the last epoch before that step, recorded again where its line was lost.
      launched: when the program was started (``time.time()``), to say how long the first step made
        a person wait; None: no such line.
      timings: where that time went is then told too.
      say: takes what a person is to read.
      track: makes what figures are handed on to besides, from the run's folder; None: nothing.
    """

    def __init__(
        self,
        workdir: Path | str,
        *,
        quiet: bool | None = None,
        resume_step: int = 0,
        last: EpochRecord | None = None,
        launched: float | None = None,
        timings: Timings | None = None,
        say: Callable[[str], None] = to_log,
        track: Callable[[Path], Tracking] | None = None,
    ) -> None:
        self._workdir, self._say = Path(workdir), say
        self._first = jax.process_index() == 0
        self._quiet = not sys.stdout.isatty() if quiet is None else quiet
        self._bar: _Bar | None = None
        self._split, self._last, self._tracking = "val", last, None
        self._held, self._said = "", -math.inf
        self._launched, self._epoch_started = launched, time.perf_counter()
        self._timings = timings
        if self._first:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._workdir)
            mended = self._journal.cut_back(resume_step, last)
            folder = self._workdir / "tensorboard"
            self._tensorboard = SummaryWriter(str(folder), purge_step=resume_step + 1)
            self._tracking = track(self._workdir) if track else None
            if mended:
                self.message(mended)

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start_epoch(
        self, phase: Phase, epoch: int, steps: int, batch_size: int, done: int = 0
    ) -> None:
        """Begin the progress bar of an epoch of ``steps``, of which ``done`` are behind us."""
        self._drop_bar()
        self._epoch_started = time.perf_counter()
        if self._first and not self._quiet:
            self._bar = _Bar(phase, epoch, steps, batch_size, done)

    def update(self, steps: int, loss: float | None, top1: float | None) -> None:
        """Move the bar on by ``steps``, whose mean loss (nats) and top-1 (0..1) these are."""
        if self._launched is not None:
            waited = max(time.time() - self._launched, 0.0)  # The clock may have been set back.
            seconds = time.perf_counter() - self._epoch_started
            self.message(first_step_line(steps, waited, seconds))
            self._launched = None
            if self._timings is not None:
                self._timings.mark("first step")
                self.message(self._timings.table())
        if self._bar is not None:
            self._bar.advance(steps, loss, top1)

    def end_epoch(self, record: EpochRecord) -> None:
        """Append ``record`` to ``metrics.jsonl``, its scalars to TensorBoard and tracker; print it.

        Of epochs that follow each other within ``EVERY`` seconds some have no line, but the first
        and the last of a phase do.
        """
        self._split = record.selection
        self._record(record)
        if self._first:
            values = {tag: getattr(record, name) for name, tag in SCALARS.items()}
            scalars = {k.format(split=self._split): x for k, x in values.items() if x is not None}
            for tag, value in scalars.items():
                self._tensorboard.add_scalar(tag, value, record.step)
            self._tensorboard.flush()
            if self._tracking is not None:
                self._tracking.log(scalars, record.step)
        self._drop_bar()
        self._held = epoch_line(record, rose=_rose(record, self._last))
        self._last = record
        if time.perf_counter() - self._said >= EVERY:
            self._release()

    def hand_over(self, record: HandoffRecord) -> None:
        """Print and record that the second optimizer takes over."""
        self._record(record)
        self._release()
        self._said = -math.inf
        self.message(handoff_line(record, self._split))

    def message(self, text: str) -> None:
        """Say ``text`` without breaking the bar."""
        if self._first:
            with self._bar.aside() if self._bar is not None else contextlib.nullcontext():
                self._say(text)

    def finish(self, summary: Summary) -> None:
        """Write ``summary.json`` and ``curves.png``, print the final table."""
        if not self._first:
            return
        self._drop_bar()
        self._release()
        text = json.dumps(summary.to_json(), indent=2)
        write_text(self._workdir / "summary.json", text + "\n")
        draw_curves(self._workdir, summary, self.message)
        if self._tracking is not None:
            last = summary.phases[max(summary.phases)].to_json()
            self._tracking.finish({k: x for k, x in last.items() if k.startswith("test_") and x})
        self.message("\n".join(final_table(summary)))

    def close(self) -> None:
        """End the bar and the files; safe to call twice."""
        self._drop_bar()
        if self._first:
            self._tensorboard.close()
            if self._tracking is not None:
                self._tracking.close()

    def _release(self) -> None:
        """Print the line about the last epoch, if it is still to be printed."""
        if self._held:
            self.message(self._held)
            self._held, self._said = "", time.perf_counter()

    def _record(self, record: EpochRecord | HandoffRecord) -> None:
        if self._first:
            self._journal.append(record)

    def _drop_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def draw_curves(workdir: Path, summary: Summary, say: Callable[[str], None]) -> None:
    """Draw ``curves.png`` of a finished run, or say why not."""
    try:
        plots.curves(
            Journal(workdir).read(),
            workdir / CURVES,
            title=f"{summary.model} on {summary.dataset}: {test_line(summary)}",
            split=summary.selection,
        )
    except Exception as error:  # Matplotlib's; the run and its figures are whole without it.
        say(f"warning: {CURVES} could not be drawn ({error})")


class _Bar(tqdm):
    """Steps of one epoch with images/s and the means of the epoch so far."""

    monitor_interval = 0  # No thread to watch over a bar that looks at the clock in every update.

    def __init__(self, phase: Phase, epoch: int, steps: int, batch_size: int, done: int):
        self._batch_size, self._sums = batch_size, [0, 0.0, 0.0]
        super().__init__(
            total=steps,
            initial=done,
            desc=f"{phase}  epoch {epoch:3d}",
            bar_format="{desc}  step {n_fmt}/{total_fmt} |{bar}| {images_rate} images/s{postfix}",
            leave=False,
            miniters=1,
            dynamic_ncols=True,
            file=sys.stdout,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        values = super().format_dict
        steps_per_second = values["rate"] or 0  # Smoothed; None before the first step.
        return {**values, "images_rate": f"{steps_per_second * self._batch_size:,.0f}"}

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """While entered, the bar is off the screen, so that lines can be written there."""
        return self.external_write_mode(file=sys.stdout)

    def advance(self, steps: int, loss: float | None, top1: float | None) -> None:
        if loss is not None and top1 is not None:
            before = self._sums
            self._sums = [before[0] + steps, before[1] + steps * loss, before[2] + steps * top1]
            count, losses, hits = self._sums
            text = f"loss {losses / count:.4f}  top-1 {percent(hits / count)}"
            self.set_postfix_str(text, refresh=False)
        self.update(steps)


def first_step_line(steps: int, waited: float, seconds: float) -> str:
    """How long after the launch the first step (or call of ``steps``) was done."""
    what = "first step" if steps == 1 else f"first {steps} steps"
    return f"{what} after {duration(waited)} ({duration(seconds)} to compile and run)"


def _rose(record: EpochRecord, before: EpochRecord | None) -> bool:
    """Whether the figure that counts is higher than that of all epochs before."""
    best = [
        x.best_top1 if x.best_score is None else x.best_score
        for x in (record, before)
        if x is not None
    ]
    return record.improved and (len(best) == 1 or best[1] is None or (best[0] or 0.0) > best[1])


def epoch_line(record: EpochRecord, *, rose: bool) -> str:
    """One epoch in one line; ``rose``: its figure is the highest so far."""
    held_out = ""
    if record.val_loss is not None:
        by_top1 = record.select_by == "top1"
        score = "" if by_top1 else f" {NAMES[record.select_by]} {percent(record.val_score):>8}"
        best = percent(record.best_top1 if by_top1 else record.best_score)
        best = f"best {best}, patience {record.patience_left}"
        held_out = (
            f" | {record.selection} loss {record.val_loss:.4f} top-1"
            f" {percent(record.val_top1):>8}{score} ({'best so far' if rose else best})"
        )
    return (
        f"epoch {record.epoch:3d}  {record.phase}"
        f" | train loss {record.train_loss:.4f} top-1 {percent(record.train_top1):>8}{held_out}"
        f" | {record.images_per_second:,.0f} images/s, {duration(record.seconds)}"
    )


def handoff_line(record: HandoffRecord, split: str = "val") -> str:
    """The handoff in one line."""
    best = f"the best weights (epoch {record.from_epoch}, {split} top-1 "
    best += f"{percent(record.best_top1)})"
    if record.best_top1 is None:
        best = f"the last weights (epoch {record.from_epoch})"
    start = best if record.from_epoch else "the initial weights"
    return f"handoff: {record.phase} begins at step {record.step:,} from {start}"
