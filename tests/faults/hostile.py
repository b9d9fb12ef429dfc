"""Read damaged and hostile files: only InputError may leave, soon, and in little memory.

python -m tests.faults.hostile --pictures=1000 --files=300

The figures: how many files were read and refused, how many ended otherwise, the longest wait in
seconds, and how much more memory they took than good ones.
"""

import argparse
import faulthandler
import logging
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cxv_jax.errors import InputError
from cxv_jax.inference import load_image
from cxv_jax.machine import process_peak
from tests.faults import hostile_arrays, hostile_pictures
from tests.faults.hostile_arrays import Case

SECONDS, BYTES = 5.0, 10**9  # The most that a file may take, beyond good ones of memory.
WAIT = 60  # Seconds by the clock, which on a busy machine goes on while others compute.
ADVICE = ("weights_only", "allow_pickle", "Traceback", "\n")  # Never said to a person.


class Survey:
    """Counts what comes of reading files."""

    def __init__(self, what: str):
        self.what, self.read, self.refused, self.slowest = what, 0, 0, 0.0
        self.number, self.wrong = 0, list[str]()
        self.before = process_peak()

    def add(self, name: str, read: Callable[[], object]) -> None:
        """Read a file; one that is waited for ends the program and says where."""
        began, said = time.process_time(), ""
        self.number += 1
        faulthandler.dump_traceback_later(WAIT, exit=True)
        try:
            read()
            self.read += 1
        except InputError as error:
            self.refused, said = self.refused + 1, str(error)
        except Exception:
            self.wrong.append(f"{name}: {traceback.format_exc()}")
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - began
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS or any(word in said for word in ADVICE):
            self.wrong.append(f"{name}: {seconds:.1f} s, {said!r}")

    def told(self) -> str:
        """The figures."""
        more = process_peak() - self.before
        if more > BYTES:
            self.wrong.append(f"{more / 1e6:,.0f} MB more memory than for good files")
        return (
            f"{self.number} {self.what}: {self.read} read, {self.refused} refused, "
            f"{len(self.wrong)} wrong; the slowest took {self.slowest:.2f} s of one core, "
            f"all {more / 1e6:,.0f} MB more than good ones"
        )


def survey(what: str, good: Iterator[Case], bad: Iterator[Case]) -> list[str]:
    """Read the good files, then the others; what went wrong with these."""
    for _, read in good:
        read()
    found = Survey(what)
    for name, read in bad:
        found.add(name, read)
    print(found.told(), flush=True)
    return found.wrong


def main() -> int:
    """Print the figures; exit code 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")  # Pillow's, about damage it reads over.
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), random.Random(given.seed)

        def pictures(files: Iterator[tuple[str, Path]]) -> Iterator[Case]:
            return ((called, partial(load_image, path, 32)) for called, path in files)

        wrong = survey(
            "pictures",
            pictures(hostile_pictures.good(folder)),
            pictures(hostile_pictures.bad(folder, given.pictures, rng)),
        )
        wrong += survey(
            "files of arrays and weights",
            hostile_arrays.good(folder),
            hostile_arrays.bad(folder, given.files, rng),
        )
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
