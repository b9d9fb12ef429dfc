"""What a run writes down: lines of ``metrics.jsonl``, ``summary.json``, each checkpoint's record.

Top-1 and top-5 are fractions in 0..1, losses nats.
"""

import dataclasses
import math
from typing import Any

from cxv_jax.jsonable import Record
from cxv_jax.phase import Phase


@dataclasses.dataclass(frozen=True)
class EpochRecord(Record):
    """One epoch, as ``metrics.jsonl`` has it (``kind: epoch``).

    Attributes:
      phase: the running phase.
      epoch: counts through both phases, from 1.
      step: optimizer steps done.
      train_loss: mean over the epoch's images, against mixed and smoothed labels.
      train_top1: against the unmixed labels.
      val_loss: of the selection split, as ``val_top1`` and ``val_top5``; None without selection.
      best_top1: of the best epoch so far.
      improved: whether this is the best epoch.
      patience_left: epochs without improvement that the phase would still allow.
      learning_rate: the largest of the optimizer's, after the epoch.
      images_per_second: of the epoch's steps.
      seconds: of the epoch's steps.
      selection: name of the selection split, ``val`` or ``test``; ``last`` for none.
      select_by: the figure that tells which epoch is best.
      val_score: this figure of the selection split.
      best_score: of the best epoch so far.
    """

    phase: Phase
    epoch: int
    step: int
    train_loss: float
    train_top1: float
    val_loss: float | None
    val_top1: float | None
    val_top5: float | None
    best_top1: float | None
    improved: bool
    patience_left: int
    learning_rate: float
    images_per_second: float
    seconds: float
    selection: str = "val"
    select_by: str = "top1"
    val_score: float | None = None
    best_score: float | None = None


@dataclasses.dataclass(frozen=True)
class HandoffRecord(Record):
    """The handoff, as ``metrics.jsonl`` has it (``kind: handoff``).

    Attributes:
      phase: the one that begins.
      epoch: the last one before it.
      step: optimizer steps done.
      best_top1: of the weights that go on.
      from_epoch: whose weights go on; 0: the initial ones.
    """

    phase: Phase
    epoch: int
    step: int
    best_top1: float | None
    from_epoch: int


@dataclasses.dataclass(frozen=True)
class Best(Record):
    """The best epoch of a phase by its figures on the selection split; zeros without one.

    ``by`` names the figure that counts.
    """

    top1: float = -1.0
    loss: float = math.inf
    top5: float = -1.0
    epoch: int = 0
    balanced_accuracy: float = -1.0
    macro_f1: float = -1.0
    by: str = "top1"

    @property
    def score(self) -> float:
        """The figure that counts."""
        return getattr(self, self.by)

    def __lt__(self, other: "Best") -> bool:
        """A tie goes to the smaller loss."""
        return (getattr(self, other.by), -self.loss) < (other.score, -other.loss)


@dataclasses.dataclass
class Progress(Record):
    """Where a run stands besides its arrays; part of every checkpoint's record.

    Attributes:
      phase: the running one.
      epoch: whole epochs done, over both phases.
      phase_epoch: whole epochs done in this phase.
      steps: done in the running epoch.
      patience: epochs since the last improvement.
      seconds: of the run so far.
      sums: of the metrics over the steps of the running epoch.
      best: by the phase's key.
      rates: images/s by epoch.
      begun_with: what the run was begun with, a line or two; nothing for random numbers.
    """

    phase: Phase = Phase.ONE
    epoch: int = 0
    phase_epoch: int = 0
    steps: int = 0
    patience: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, Best] = dataclasses.field(default_factory=dict)
    rates: list[float] = dataclasses.field(default_factory=list)
    begun_with: list[str] = dataclasses.field(default_factory=list)

    def end_epoch(self, found: Best | None) -> bool:
        """Count an epoch with its figures on the selection split; whether it is the best.

        Without figures the last epoch is.
        """
        self.epoch, self.phase_epoch = self.epoch + 1, self.phase_epoch + 1
        self.steps, self.sums = 0, {}
        improved = found is None or self.best_so_far() < found
        self.patience = 0 if improved else self.patience + 1
        if improved:
            best = dataclasses.replace(found or Best(0.0, 0.0, 0.0), epoch=self.epoch)
            self.best[self.phase.key] = best
        return improved

    def best_so_far(self) -> Best:
        """The best epoch, of phase two if it has one."""
        return self.best.get(Phase.TWO.key) or self.best.get(Phase.ONE.key) or Best()


@dataclasses.dataclass(frozen=True)
class DataRecord(Record):
    """What prediction and a resumed run need to know of the data.

    Attributes:
      class_names: in the order of the logits.
      image_shape: height, width, channels.
      name: of the data set.
      named: False for numbers in place of names (imported weights).
      white: the value that was read as 255 in images of more than 8 bits; 0: there were none.
      digest: of classes, images of every split and labels; empty: not known.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    name: str = ""
    named: bool = True
    white: float = 0.0
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Meta(Record):
    """What a checkpoint says of itself.

    Attributes:
      config: of the run, as plain data.
      dataset: what it was trained on.
      progress: where training stood; None for imported weights.
      selection: the split that selected the weights; empty for imported weights.
      last: the last epoch's record, for a ``metrics.jsonl`` that has lost it.
    """

    config: dict[str, Any]
    dataset: DataRecord
    progress: Progress | None = None
    selection: str = ""
    last: EpochRecord | None = None


@dataclasses.dataclass(frozen=True)
class PhaseSummary(Record):
    """The best weights of a phase: of which epoch, on the selection split, on test.

    The means over classes leave out those without images; None in files of older versions.
    """

    epoch: int
    val_top1: float | None
    test_top1: float
    test_top5: float
    val_top5: float | None = None
    val_loss: float | None = None
    test_loss: float | None = None
    val_balanced_accuracy: float | None = None
    val_macro_f1: float | None = None
    test_balanced_accuracy: float | None = None
    test_macro_f1: float | None = None
    test_auroc: float | None = None


@dataclasses.dataclass(frozen=True)
class ClassRecord(Record):
    """A class on a split: its images, those recognised, what is defined of the rest, else None.

    ``auroc`` is the area under its curve against all others.
    """

    name: str
    count: int
    hits: int
    precision: float | None
    recall: float | None
    auroc: float | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationRecord(Record):
    """How far confidence and accuracy are apart on test, before and after a temperature.

    Attributes:
      ece: the expected calibration error, 15 bins, in 0..1.
      temperature: that logits are divided by, fitted on validation; None: there is none, since
        there was no validation split, or all of it was right.
      images: of validation, that it was fitted on.
      calibrated_ece: with it.
      calibrated_loss: likewise.
      step: of the checkpoint with these weights.
    """

    ece: float
    step: int
    temperature: float | None = None
    images: int = 0
    calibrated_ece: float | None = None
    calibrated_loss: float | None = None


@dataclasses.dataclass(frozen=True)
class Summary(Record):
    """A finished run, as ``summary.json`` has it.

    Attributes:
      workdir: the run's folder.
      dataset: name of the data set.
      model: name of the model.
      selection: the split that selected the weights, ``val`` or ``test``; or ``last``.
      test_top1: of the last phase's best weights, as ``test_top5``.
      last_test_top1: of the run's last weights; None in files of older versions.
      begun_with: which arrays came from ``config.init_from`` and which are new, a line or two.
      phases: by the phase's key.
      test_count: images of test; 0 where an older version did not tell.
      per_class: every class on test, by the last phase's best weights.
      confusion: these weights' test images by (true class, predicted class).
      calibration: of these weights.
      parameters: trainable ones.
      images_per_second: the median over the epochs.
      seconds: of the whole run.
      peak_memory_bytes: most memory held, of what ``peak_memory_of`` names.
      device: number and kind.
      config: of the run, as plain data.
      seed: of the run.
      epochs: over both phases.
      command: that trained it, as typed.
      date: when it finished.
      python: version.
      versions: of the packages that compute.
      revision: git commit of the code, and whether it was modified; empty outside a checkout.
    """

    workdir: str
    dataset: str
    model: str
    selection: str
    test_top1: float
    test_top5: float
    phases: dict[str, PhaseSummary]
    parameters: int
    images_per_second: float
    seconds: float
    peak_memory_bytes: int
    peak_memory_of: str
    device: str
    config: dict[str, Any]
    seed: int = 0
    epochs: int = 0
    command: str = ""
    date: str = ""
    python: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    test_count: int = 0
    per_class: list[ClassRecord] = dataclasses.field(default_factory=list)
    confusion: list[list[int]] = dataclasses.field(default_factory=list)
    calibration: CalibrationRecord | None = None
    revision: str = ""
    last_test_top1: float | None = None
    begun_with: list[str] = dataclasses.field(default_factory=list)
