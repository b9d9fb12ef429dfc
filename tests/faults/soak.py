"""Kill trainings many times, let each go on to its end, compare all of it with an unkilled run.

python -m tests.faults.soak --kills=100
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.harness import Victims, differing, leftovers, outcome
from tests.faults.victim import INSTANTS

KILLS_OF_A_RUN = 6


class Soak:
    """Kills of every kind in turn: at a change of a file, at an instant, at a moment of time."""

    def __init__(self, victims: Victims, folder: Path, seed: int):
        self.victims, self.folder, self.draw = victims, folder, random.Random(seed)
        self.counts: Counter[str] = Counter(kills=0, runs=0, lost=0, leftovers=0)
        self.first = folder / "reference"
        self.code = victims.run(self.first, operation=1, act="tell")
        self.operations = victims.said.count("operation\n")
        began = time.monotonic()
        victims.run(folder / "second")  # With everything compiled.
        self.seconds = time.monotonic() - began
        self.reference = outcome(self.first)
        if self.code or differing(folder / "second", self.reference):
            raise SystemExit(f"two runs without faults differ: {victims.said}")

    def kill(self, workdir: Path) -> int | None:
        """Train until a fault that is drawn."""
        kind = self.counts["kills"] % 3
        if kind == 0:
            at = self.draw.randrange(1, self.operations // 3)  # A resumed run has fewer.
            return self.victims.run(workdir, operation=at, act="kill")
        if kind == 1:
            instant = self.draw.choice(sorted(INSTANTS))
            return self.victims.run(workdir, instant=instant, act="kill")
        return self.victims.run_until(workdir, self.draw.uniform(0, self.seconds / 2))

    def run(self, number: int) -> None:
        """One training that is killed several times, then goes on to its end and is compared."""
        workdir = self.folder / str(number)
        codes: list[int | None] = []
        while len(codes) < KILLS_OF_A_RUN and codes[-1:] != [0]:
            codes.append(self.kill(workdir))
            self.counts["kills"] += codes[-1] == -9
        codes.append(self.victims.run(workdir))
        self.counts["runs"] += 1
        wrong = [code for code in codes if code not in (-9, 0)] or codes[-1] != 0
        different = differing(workdir, self.reference) if not wrong else ["ended with an error"]
        left = leftovers(workdir, self.first)
        self.counts["lost"] += bool(different)
        self.counts["leftovers"] += bool(left)
        if different or left:
            print(f"{workdir}: exit codes {codes}, differs in {different}, left {left}")
        else:
            shutil.rmtree(workdir)


def main() -> int:
    """Print a line a run, then the counts; exit code 1 if anything was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="end after so long")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    end = time.monotonic() + 60 * given.minutes
    with Victims(folder) as victims:
        soak = Soak(victims, folder, given.seed)
        while soak.counts["kills"] < given.kills and time.monotonic() < end:
            soak.run(soak.counts["runs"])
            print(", ".join(f"{count} {name}" for name, count in soak.counts.items()), flush=True)
    bad = soak.counts["lost"] + soak.counts["leftovers"]
    if not bad:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
