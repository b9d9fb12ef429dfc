"""Evaluate a run: top-1 with its interval, top-5, loss, calibration, figures by class, pictures.

python -m experiments.evaluate --workdir=runs/digits-cpv
python -m experiments.evaluate --workdir=runs/imported --data=cifar10 --data_dir=FOLDER
python -m experiments.evaluate --workdir=runs/mine --data=folder:PATH

The last takes every image of an outside PATH/CLASS/, or of PATH/test/CLASS/ if it has splits.
Writes evaluation.json, confusion.png and reliability.png into the run's folder. With --flip the
network sees every image and its mirror image, and the mean of both counts.
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from cxv_jax.launch import command

if TYPE_CHECKING:
    from cxv_jax.data.sources import Dataset
    from cxv_jax.evaluation import Evaluation
    from cxv_jax.inference import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "val", "test"], "Which images.")
_DATA = flags.DEFINE_string("data", "", "Source of the images, if not the one of the training.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where its files are, if not where they were.")
_FLIP = flags.DEFINE_bool("flip", False, "The mean over each image and its mirror image.")


def main(argv: list[str]) -> None:
    """Evaluate ``--workdir`` on ``--split``."""
    if not _WORKDIR.value or argv:
        command.fail("expected --workdir=FOLDER and nothing besides flags; see --help")
    from cxv_jax import inference  # Late: --help must not wait for JAX.
    from cxv_jax.files import write_text

    run = inference.load_run(_WORKDIR.value)
    dataset = open_dataset(run, _DATA.value, _DATA_DIR.value, _SPLIT.value)
    result = inference.evaluate(run, dataset.split(_SPLIT.value), flip=_FLIP.value)
    workdir, summary = Path(_WORKDIR.value), summarise(run, dataset, result)
    command.say("\n".join(table(summary)))
    write_text(workdir / "evaluation.json", json.dumps(summary, indent=2) + "\n")
    title = f"{dataset.name} {_SPLIT.value}: top-1 {100 * result.top1:.2f} %"
    written = ["evaluation.json", *draw(run, result, workdir, title)]
    command.say(f"\nwritten to {workdir}: {', '.join(written)}")


def draw(run: "Run", result: "Evaluation", workdir: Path, title: str) -> list[str]:
    """Draw the pictures; return the names of those that could be drawn."""
    from cxv_jax import plots

    curves = {"as trained": result.reliability()}
    if run.temperature != 1:
        curves[f"temperature {run.temperature:.3f}"] = result.reliability(run.temperature)
    drawings = {
        "confusion.png": partial(plots.confusion, result.confusion, run.class_names),
        "reliability.png": partial(plots.reliability, curves),
    }
    drawn = []
    for name, drawing in drawings.items():
        try:
            drawing(workdir / name, title=title)
            drawn.append(name)
        except Exception as error:  # Matplotlib's; the figures are written.
            command.say(f"warning: {name} could not be drawn ({error})", error=True)
    return drawn


def open_dataset(run: "Run", source: str, data_dir: str, split: str) -> "Dataset":
    """The run's own data set with the split as it was then, or another with the same classes.

    Of an outside folder or file all images count.
    """
    from cxv_jax import inference
    from cxv_jax.data import sources
    from cxv_jax.errors import InputError
    from cxv_jax.parts import load_dataset

    config = run.config.copy_and_resolve_references()
    own, config.data.source = config.data.source, source or config.data.source
    config.data.data_dir = data_dir or config.data.data_dir
    if not config.data.source:
        raise InputError("this run names no data (it was imported): pass --data=SOURCE")
    if sources.is_outside(source, own):
        dataset = sources.outside(
            source,
            split,
            class_names=run.class_names if run.meta.dataset.named else (),
            image_size=run.image_shape[0] if run.image_shape[0] == run.image_shape[1] else 0,
            on_bad_image=config.data.on_bad_image,
            white=run.meta.dataset.white,
        )
    elif source in ("", own) or source.partition(":")[0] in sources.OUTSIDE:
        dataset = inference.own_dataset(run, config, split)
    else:
        dataset = load_dataset(config)
    if dataset.num_classes != len(run.class_names):
        raise InputError(
            f"{dataset.name} has {dataset.num_classes} classes, the run {len(run.class_names)}"
        )
    if run.meta.dataset.named and dataset.class_names != run.class_names:
        pairs = zip(dataset.class_names, run.class_names, strict=True)
        theirs, ours = next(pair for pair in pairs if pair[0] != pair[1])
        raise InputError(f"{dataset.name} has the class {theirs!r} where the run has {ours!r}")
    return dataset


def summarise(run: "Run", dataset: "Dataset", result: "Evaluation") -> dict[str, Any]:
    """The results as plain data."""
    from cxv_jax.calibration import mean_loss
    from cxv_jax.data import sources
    from cxv_jax.evaluation import known
    from cxv_jax.figures import mean_known, wilson

    outside = sources.is_outside(dataset.name, run.config.data.source)
    by_class = result.by_class
    rows = [row.to_json() for row in result.class_records(dataset.class_names)]
    return {
        "dataset": dataset.name,
        "split": _SPLIT.value,
        "selected_on": "" if outside else run.meta.selection,
        "step": run.step,
        "count": result.count,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "between": wilson(result.top1, result.count),
        "balanced_accuracy": by_class.balanced_accuracy,
        "macro_f1": by_class.macro_f1,
        "auroc": known(mean_known(result.auroc)),
        "flip": _FLIP.value,
        "ece": known(result.reliability().error),
        "temperature": run.temperature,
        "calibrated_ece": known(result.reliability(run.temperature).error),
        "calibrated_loss": mean_loss(result.logits, result.labels, run.temperature),
        "per_class": [{"class": row.pop("name"), **row} for row in rows],
        "confusion": result.confusion.tolist(),
    }


def table(summary: dict[str, Any]) -> list[str]:
    """The results for a person: by class, then all."""
    from cxv_jax.figures import accuracy
    from cxv_jax.final_table import class_table, share
    from cxv_jax.records import ClassRecord

    rows = [ClassRecord.from_json({"name": row["class"], **row}) for row in summary["per_class"]]
    split = summary["split"]
    lines = [*class_table(rows, len(rows)), f"{summary['dataset']}, {split}"]
    if split == summary["selected_on"]:
        lines.append(f"the weights were selected on {split}: these figures are not held out")
    line = f"{split} top-1 {accuracy(summary['top1'], summary['count'])}"
    if len(rows) > 5:
        line += f", top-5 {100 * summary['top5']:.2f} %"
    means = f"balanced accuracy {100 * summary['balanced_accuracy']:.2f} %"
    means += f", macro-F1 {100 * summary['macro_f1']:.2f} %"
    if summary["auroc"] is not None:
        means += f", AUROC {share(summary['auroc'])}"
    calibration = f"{split} calibration error {100 * summary['ece']:.2f} %"
    if summary["temperature"] == 1:
        calibration += "; no temperature was fitted"
    else:
        calibration += f", {100 * summary['calibrated_ece']:.2f} % at the temperature of the run, "
        calibration += f"{summary['temperature']:.3f}"
    return [*lines, f"{split} {means}", calibration, f"{line}, loss {summary['loss']:.4f}"]


if __name__ == "__main__":
    command.run(main)
