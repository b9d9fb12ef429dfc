"""Classify image files of any size and mode with a trained run.

python -m experiments.predict --workdir=runs/digits-cpv image.png other.jpg FOLDER
python -m experiments.predict --workdir=runs/digits-cpv --json --top=3 image.png

Every picture in a folder and below it is classified. A file that cannot be read is named on
stderr, the others are classified, and the exit code is 1.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from cxv_jax.launch import command
from cxv_jax.text import printable

if TYPE_CHECKING:
    from cxv_jax.inference import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes to print of each image.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON list instead, for machines.")


def main(argv: list[str]) -> int:
    """Classify the files in ``argv``; return the exit code."""
    if not _WORKDIR.value or not argv:
        command.fail("expected --workdir=FOLDER and one or more image files; see --help")
    from cxv_jax import inference  # Late: --help must not wait for JAX.
    from cxv_jax.errors import InputError

    run = inference.load_run(_WORKDIR.value)
    height, width, _ = run.image_shape
    if height != width:
        raise InputError(f"the run has {height}x{width} images; files are read as squares only")
    faults: list[str] = []
    results = list(classified(run, argv, faults))
    command.say(json.dumps(results, indent=2) if _JSON.value else "\n".join(map(text, results)))
    for fault in faults:
        command.say(f"error: {fault}", error=True)
    return 1 if faults else 0


def classified(run: "Run", names: list[str], faults: list[str]) -> Iterator[dict[str, Any]]:
    """The classes of every file that can be read; ``faults`` gets a line for each other one."""
    from cxv_jax import inference

    files = [file for name in names for file in pictures(name, faults)]
    most = run.config.eval_batch_size  # So that no more pictures are held in memory.
    for start in range(0, len(files), most):
        good = list(readable(run, files[start : start + most], faults))
        if good:
            probabilities = inference.predict(run, np.stack([image for _, image in good]))
            for (file, _), row in zip(good, probabilities, strict=True):
                yield {"file": file, "predictions": ranked(row, run.class_names)}


def pictures(name: str, faults: list[str]) -> Iterator[str]:
    """A file, or every picture in a folder and below it, in order."""
    from cxv_jax.data.folder import HIDDEN
    from cxv_jax.data.images import ENDINGS

    if not os.path.isdir(name):
        yield name
        return
    errors: list[OSError] = []
    found = []
    for place, folders, files in os.walk(name, onerror=errors.append):
        folders[:] = [folder for folder in folders if not folder.startswith(HIDDEN)]
        shown = [file for file in files if not file.startswith(HIDDEN)]
        found += [os.path.join(place, f) for f in shown if Path(f).suffix.lower() in ENDINGS]
    faults += [f"{error.filename}: {error.strerror}" for error in errors]
    if not found and not errors:
        faults.append(f"{name}: no pictures in this folder ({', '.join(ENDINGS)})")
    yield from sorted(found)


def readable(run: "Run", files: list[str], faults: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The files that can be read, with their pixels."""
    from cxv_jax import inference
    from cxv_jax.errors import InputError, os_fault

    size, white = run.image_shape[0], run.meta.dataset.white
    for file in files:
        try:
            yield file, inference.load_image(file, size, white)
        except InputError as fault:
            faults.append(str(fault))
        except OSError as error:
            faults.append(str(os_fault(error)))


def ranked(probabilities: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The ``--top`` most probable classes, best first."""
    best = np.argsort(-probabilities, kind="stable")[: _TOP.value]
    return [
        {"class": class_names[i], "index": int(i), "probability": float(probabilities[i])}
        for i in best
    ]


def text(result: dict[str, Any]) -> str:
    """One file's classes for a person."""
    lines = [f"{100 * p['probability']:7.2f} %  {p['class']}" for p in result["predictions"]]
    return "\n".join([printable(result["file"]), *lines])


if __name__ == "__main__":
    command.run(main)
