"""Kill trainings many times, let each go on to its end, compare all of it with an unkilled run.

python -m tests.faults.soak --kills=100

The same command goes on where it was stopped.
"""

import argparse
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.harness import Victims, differing, leftovers, outcome
from tests.faults.victim import INSTANTS, NO_MORE_FILES, SIGNALS

FAULTS_OF_A_RUN = 8
KILLS = ("operation", "instant", "moment")
KINDS = (*KILLS, "operation", "instant", "signal", "moment", "disk")
ENDS = {  # How a training may end, by what it meets; 0: it had finished before.
    **dict.fromkeys(KILLS, (-9, 0)),
    **{"signal": (143, 130, -1, 0), "disk": (2, 0)},
}


class Soak:
    """Faults of every kind in turn: kill -9 at a change of a file, at an instant and at a moment of
    time, signals at an instant, and disks that refuse; under half of them the clock goes backwards.

    Args:
      victims: that train.
      folder: of the runs, and of ``counts.json``.
      seed: of what is drawn.
    """

    def __init__(self, victims: Victims, folder: Path, seed: int):
        self.victims, self.folder, self.seed = victims, folder, seed
        self.counts: Counter[str] = Counter(
            kills=0, signals=0, disks=0, runs=0, lost=0, leftovers=0
        )
        self.first, self.file = folder / "reference", folder / "counts.json"
        if self.file.exists():
            self.counts.update(json.loads(self.file.read_text()))
        else:
            self._measure()
        self.reference = outcome(self.first)

    def _measure(self) -> None:
        """The run that all others are compared with, how many files it changes, how long it is."""
        code = self.victims.run(self.first, operation=1, act="tell")
        self.counts["operations"] = self.victims.said.count("operation\n")
        began = self.victims.seconds
        self.victims.run(self.folder / "second")  # With everything compiled.
        self.counts["milliseconds"] = int(1000 * (self.victims.seconds - began))
        if code or differing(self.folder / "second", outcome(self.first)):
            raise SystemExit(f"two runs without faults differ: {self.victims.said}")

    def meet(self, workdir: Path, kind: str, draw: random.Random) -> int | None:
        """Train until a fault of a kind that is drawn."""
        fault: dict[str, Any] = {"clock": True} if draw.random() < 0.5 else {}
        operation = draw.randrange(1, self.counts["operations"] // 3)  # A resumed run has fewer.
        if kind == "operation":
            fault |= {"operation": operation, "act": "kill"}
        elif kind == "disk":
            act = draw.choice(["full", "read-only", *NO_MORE_FILES])
            fault |= {"operation": operation // (1 + (act in NO_MORE_FILES)), "act": act}
        elif kind == "moment":
            return self.victims.run_until(
                workdir, draw.uniform(0, self.counts["milliseconds"] / 2e3)
            )
        else:
            act = draw.choice(sorted(SIGNALS)) if kind == "signal" else "kill"
            fault |= {"instant": draw.choice(sorted(INSTANTS)), "act": act}
        return self.victims.run(workdir, **fault)

    def run(self, number: int) -> None:
        """One training that meets several faults, then goes on to its end and is compared."""
        workdir, draw = self.folder / str(number), random.Random(f"{self.seed}/{number}")
        shutil.rmtree(workdir, ignore_errors=True)  # Of a soak that was stopped.
        found: Counter[str] = Counter(runs=1)
        wrong = []
        for i in range(FAULTS_OF_A_RUN):
            kind = KINDS[(number * FAULTS_OF_A_RUN + i) % len(KINDS)]
            code = self.meet(workdir, kind, draw)
            found.update(kills=code == -9, signals=code in ENDS["signal"][:3], disks=code == 2)
            if code not in ENDS[kind] or self.victims.said.count("error: ") != (code == 2):
                wrong.append(f"{kind}: exit code {code}: {self.victims.said}")
            if code == 0:
                break
        if (code := self.victims.run(workdir)) != 0:
            wrong.append(f"without a fault: exit code {code}: {self.victims.said}")
        different = wrong or differing(workdir, self.reference)
        left = leftovers(workdir, self.first)
        found.update(lost=bool(different), leftovers=bool(left))
        if different or left:
            print(f"{workdir}: differs in {different}, left {left}", flush=True)
        else:
            shutil.rmtree(workdir)
        self.counts.update(found)
        self.file.write_text(json.dumps(self.counts))


def main() -> int:
    """Print a line a run, then the counts; exit code 1 if anything was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"), help="of the runs")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with Victims(folder) as victims:
        soak = Soak(victims, folder, given.seed)
        while soak.counts["kills"] < given.kills:
            soak.run(soak.counts["runs"])
            print(", ".join(f"{count} {name}" for name, count in soak.counts.items()), flush=True)
    bad = soak.counts["lost"] + soak.counts["leftovers"]
    if not bad:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
