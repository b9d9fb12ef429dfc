"""Our train step and PyTorch's, alternating on one machine: ratios that other load cannot bend.

Each side lives in a process of its own, with the same malloc settings, and works only when it is
its turn. ``python -m benchmarks.against_torch --models=cpv,cnv,cltv``; one line a model and side,
saved as JSON and Markdown with ``--output``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import sides

ROOT = Path(__file__).parents[1]
SIDES = {
    "ours": dict(kind="jax"),
    "eager": dict(kind="torch"),
    "eager-last": dict(kind="torch", channels_last=True),
    "compile": dict(kind="torch", compiled=True),
}


class Worker:
    """One side in its own process: a line in, a line of JSON out."""

    def __init__(self, **request: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.against_torch", "--worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.facts = self.ask(request)

    def ask(self, message: Any) -> dict[str, Any]:
        """Send, wait, receive."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(message), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a side of the benchmark ended early; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work() -> None:
    """Be one side: build what the first line asks for, then take turns."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever a library prints goes to standard error.
    request = json.loads(sys.stdin.readline())
    kind = request.pop("kind")
    side = {"jax": sides.jax_side, "torch": sides.torch_side}[kind](**request)
    sides.turn(side, 2)
    print(json.dumps(side.facts), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(sides.turn(side, json.loads(line))), file=replies, flush=True)


def compare(model: str, names: list[str], rounds: int, steps: int, **request: Any) -> list[dict]:
    """Rows of one model: every side's median images/s and its ratio to the first side's."""
    workers = {n: Worker(model=model, **request, **SIDES[n]) for n in names}
    turns: dict[str, list[dict]] = {n: [] for n in names}
    for i in range(rounds):
        for n in names if i % 2 == 0 else reversed(names):
            turns[n].append(workers[n].ask(steps))
    rows = []
    for n in names:
        ratios = [
            t["seconds"] / o["seconds"] for t, o in zip(turns[n], turns[names[0]], strict=True)
        ]
        row = {"model": model, "side": n, **workers[n].facts}
        row["images_per_s"] = request["batch"] / statistics.median(t["seconds"] for t in turns[n])
        row["ours_is_faster_by"] = statistics.median(ratios)
        row |= {k: statistics.median(t[k] for t in turns[n]) for k in ("faults", "system_seconds")}
        row["peak_rss_gb"] = turns[n][-1]["peak_rss_gb"]
        rows.append(row)
        workers[n].close()
    gflop = next((r["gflop_per_image"] for r in rows if "gflop_per_image" in r), 0.0)
    rate = sides.matmul_gflops()
    for row in rows:
        row["fraction_of_matmul"] = gflop * row["images_per_s"] / rate
    return rows


def markdown(rows: list[dict]) -> str:
    """The table, one column a quantity."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def cell(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    body = [line([cell(row.get(c, "")) for c in columns]) for row in rows]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--models", default="cpv,cnv,cltv")
    parser.add_argument("--sides", default="ours,eager,eager-last")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="per turn")
    parser.add_argument("--output", type=Path, help="a folder for the table")
    flags = parser.parse_args()
    if flags.worker:
        return work()
    rows: list[dict] = []
    for model in flags.models.split(","):
        request = dict(batch=flags.batch, dtype=flags.dtype)
        rows += compare(model, flags.sides.split(","), flags.rounds, flags.steps, **request)
        print(markdown(rows), flush=True)
    if flags.output:
        flags.output.mkdir(parents=True, exist_ok=True)
        (flags.output / "against_torch.json").write_text(json.dumps(rows, indent=1) + "\n")
        (flags.output / "against_torch.md").write_text(markdown(rows) + "\n")
    return None


if __name__ == "__main__":
    from experiments.allocator import ensure

    ensure()
    main()
