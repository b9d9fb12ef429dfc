"""Classify image files of any size and mode with a trained run.

python -m experiments.predict --workdir=runs/digits-cpv image.png FOLDER 'more/*.jpg'
python -m experiments.predict --workdir=runs/digits-cpv --csv=classes.csv --top=3 FOLDER
python -m experiments.predict --workdir=runs/digits-cpv --json image.png

Every picture in a folder and below it is classified. A file that cannot be read is named on
stderr, the others are classified, and the exit code is 1. Pictures are read a batch at a time, so
that thousands take no more memory than hundreds. --csv and --json print a table or a list in place
of text; --csv=FILE and --json=FILE write it, and FILE is there once all is done.
"""

import csv
import glob
import io
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from tqdm import tqdm

from cxv_jax.launch import command
from cxv_jax.text import printable

if TYPE_CHECKING:
    from cxv_jax.inference import Run

Result = dict[str, Any]  # A file and its classes.
SCREEN = "-"


class _Place(flags.ArgumentParser):
    """``--csv`` is the screen, ``--csv=FILE`` a file."""

    def parse(self, argument: Any) -> str | None:
        return {"true": SCREEN, "false": None}.get(argument, argument)


_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes to tell of each image.", lower_bound=1)
_CSV = flags.DEFINE(_Place(), "csv", None, "Print a table, or write it to FILE.", boolean=True)
_JSON = flags.DEFINE(_Place(), "json", None, "Print JSON, or write it to FILE.", boolean=True)


def main(argv: list[str]) -> int:
    """Classify the files in ``argv``; return the exit code."""
    if not _WORKDIR.value or not argv or (_CSV.value and _JSON.value):
        command.fail(
            "expected --workdir=FOLDER, images, folders or globs, and at most one of --csv and "
            "--json; see --help"
        )
    from cxv_jax import inference  # Late: --help must not wait for JAX.

    run = inference.load_run(_WORKDIR.value)
    missed: list[str] = []
    files = [file for name in argv for file in pictures(name, missed)]
    with Screen(len(files)) as screen:
        for fault in missed:
            screen.refuse(fault)
        results = classified(run, files, screen.refuse, screen.update)
        form = as_csv if _CSV.value else as_json if _JSON.value else as_text
        put(form(results), _CSV.value or _JSON.value or SCREEN, screen)
    return 1 if screen.faults else 0


class Screen(tqdm):
    """A progress bar, the lines that are printed beside it, and how many of them are faults."""

    def __init__(self, total: int):
        super().__init__(total=total, unit=" images", disable=None, delay=1)
        self.faults = 0

    def say(self, text: str, *, error: bool = False) -> None:
        """Print ``text`` as it is."""
        with self.external_write_mode():
            command.say(text, error=error, end="")

    def refuse(self, fault: str) -> None:
        """Print and count a fault."""
        self.faults += 1
        self.say(f"error: {fault}\n", error=True)


def put(texts: Iterator[str], place: str, screen: Screen) -> None:
    """Print texts as they come, or write a file that is there once it is whole."""
    from cxv_jax.files import replace

    if place != SCREEN:
        replace(Path(place), partial(write, texts))
        screen.say(f"written to {place}\n")
        return
    for text in texts:
        screen.say(text)


def pictures(name: str, faults: list[str]) -> Iterator[str]:
    """A file, those that a glob finds, or every picture in a folder and below it, in order."""
    from cxv_jax.data.folder import HIDDEN
    from cxv_jax.data.images import ENDINGS

    if not os.path.lexists(name) and (matches := sorted(glob.glob(name))):
        for match in matches:
            yield from pictures(match, faults)
        return
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


def classified(
    run: "Run", files: list[str], refuse: Callable[[str], None], done: Callable[[int], Any]
) -> Iterator[Result]:
    """The classes of every file that can be read, a batch at a time.

    Args:
      run: from ``inference.load_run``.
      files: in any number.
      refuse: takes a line about each file that cannot be read.
      done: is told how many files are behind us.
    """
    from cxv_jax import inference

    most = run.config.eval_batch_size
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(files), most):
            batch = files[start : start + most]
            found = list(threads.map(partial(read, run), batch))
            for fault in found:
                if isinstance(fault, str):
                    refuse(fault)
            names = [x for x, image in zip(batch, found, strict=True) if not isinstance(image, str)]
            if names:
                images = np.stack([image for image in found if not isinstance(image, str)])
                for name, row in zip(names, inference.predict(run, images), strict=True):
                    yield {"file": name, "predictions": ranked(row, run.class_names)}
            done(len(batch))


def read(run: "Run", file: str) -> np.ndarray | str:
    """The pixels of a file, or why it cannot be read."""
    from cxv_jax import inference
    from cxv_jax.errors import InputError, os_fault

    height, width, _ = run.image_shape
    try:
        return inference.load_image(file, (height, width), run.meta.dataset.white)
    except InputError as fault:
        return str(fault)
    except OSError as error:
        return str(os_fault(error))


def ranked(probabilities: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The ``--top`` most probable classes, best first; all where there are fewer."""
    best = np.argsort(-probabilities, kind="stable")[: _TOP.value]
    return [
        {"class": class_names[i], "index": int(i), "probability": float(probabilities[i])}
        for i in best
    ]


def as_text(results: Iterable[Result]) -> Iterator[str]:
    """Each file with its classes, for a person."""
    for result in results:
        lines = [f"{100 * p['probability']:7.2f} %  {p['class']}" for p in result["predictions"]]
        yield "\n".join([printable(result["file"]), *lines, ""])


def as_csv(results: Iterable[Result]) -> Iterator[str]:
    """A row for each file: ``file,class,probability``, then ``class_2,probability_2``, ..."""
    for number, result in enumerate(results):
        ranks = ["", *(f"_{rank}" for rank in range(2, 1 + len(result["predictions"])))]
        title = ["file", *(f"{name}{rank}" for rank in ranks for name in ("class", "probability"))]
        row = [x for p in result["predictions"] for x in (p["class"], f"{p['probability']:.6f}")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([title] * (number == 0) + [[result["file"], *row]])
        yield text.getvalue()


def as_json(results: Iterable[Result]) -> Iterator[str]:
    """A list with an object for each file."""
    before = "[\n"
    for result in results:
        yield before + textwrap.indent(json.dumps(result, indent=2), "  ")
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def write(texts: Iterable[str], path: Path) -> None:
    """Write texts one after the other; names that are no UTF-8 keep their bytes."""
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(texts)


if __name__ == "__main__":
    command.run(main)
