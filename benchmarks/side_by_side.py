"""Our train step and prediction against PyTorch's, alternating on one machine.

Each side lives in a process of its own, with the same malloc settings, and works only when it is
its turn, so ratios hold under load that would bend times.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import sides
from cxv_jax import tables

ROOT = Path(__file__).parents[1]
SIDES: dict[str, dict[str, Any]] = {
    "ours": dict(kind="jax"),
    "torch eager": dict(kind="torch"),
    "torch eager, channels-last": dict(kind="torch", channels_last=True),
    "torch.compile": dict(kind="torch", compiled=True),
}
# Title, field of a row, digits.
COLUMNS = [
    ("model", "model", None),
    ("side", "side", None),
    ("pixels", "size", 0),
    ("devices", "devices", 0),
    ("training images/s", "train_images_per_s", 2),
    ("ours / this", "train_ratio", 2),
    ("inference images/s", "infer_images_per_s", 1),
    ("ours / this", "infer_ratio", 2),
    ("peak memory GB", "peak_gb", 2),
    ("ours / this", "memory_ratio", 2),
    ("temporaries MB/image", "temp_mb_per_image", 1),
    ("of matrix-product rate", "fraction_of_matmul", 2),
    ("page faults/step", "faults", 0),
]


class Worker:
    """One side in its own process: a line in, a line of JSON out."""

    def __init__(self, devices: int = 1, **request: Any) -> None:
        command, pipe = [sys.executable, "-m", "benchmarks.sides"], subprocess.PIPE
        environment = dict(os.environ)
        if devices > 1:  # Counts on a CPU only, where one device becomes several.
            flag = f"--xla_force_host_platform_device_count={devices}"
            environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flag}"
            request["devices"] = devices
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.facts = self.ask(request)

    def ask(self, message: Any) -> dict[str, Any]:
        """Send, wait, receive."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(message), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise BrokenPipeError("a side of the benchmark ended early; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def turns_of(
    model: str, names: list[str], *, rounds: int, steps: int, **request: Any
) -> list[dict[str, Any]]:
    """Rows of one model, one a side, ours first.

    Args:
      model: ``cpv``, ``cnv`` or ``cltv``, at its published size.
      names: keys of ``SIDES``; one that cannot be started is left out.
      rounds: turns of each side, the order reversed in every other one.
      steps: of a turn, of which the median.
      **request: ``batch``, ``dtype``, ``size``.

    Returns:
      Medians over the rounds, and of the ratios within each round.
    """
    rows, workers = [], {}
    for name in names:
        try:
            workers[name] = Worker(model=model, **SIDES[name], **request)
        except BrokenPipeError:
            if name == names[0]:
                raise
            print(f"{model}: {name} ended early, see above; left out", file=sys.stderr)
    names = list(workers)
    turns: dict[tuple[str, str], list[dict[str, Any]]] = {}
    gflops = 0.0  # The best of all rounds: a moment's rate can be half of it.
    for i in range(rounds):
        gflops = max(gflops, sides.matmul_gflops())
        for what in ("train", "infer"):
            for name in names if i % 2 == 0 else reversed(names):
                answer = workers[name].ask([what, steps])
                turns.setdefault((what, name), []).append(answer)
    for name in names:
        row = {"model": model, "side": name, "size": request["size"], **workers[name].facts}
        for what in ("train", "infer"):
            mine, ours = turns[what, name], turns[what, names[0]]
            row[f"{what}_images_per_s"] = request["batch"] / _median(mine, "seconds")
            pairs = zip(mine, ours, strict=True)
            row[f"{what}_ratio"] = statistics.median(t["seconds"] / o["seconds"] for t, o in pairs)
        row["faults"] = _median(turns["train", name], "faults")
        row["peak_gb"] = turns["train", name][-1]["peak_gb"]
        row["memory_ratio"] = turns["train", names[0]][-1]["peak_gb"] / row["peak_gb"]
        rows.append(row)
        workers[name].close()
    return _with_fractions(rows, gflops)


def growth(model: str, names: list[str], sizes: list[int], **request: Any) -> list[dict[str, Any]]:
    """Rows of one model at several image sizes, and for ours on 1 to 8 devices.

    On a CPU the devices share its cores: only their memory tells something.
    """
    rounds = dict(rounds=2, steps=1)
    rows = [
        row
        for size in sizes
        for row in turns_of(model, names, **rounds, **{**request, "size": size, "batch": 1})
    ]
    for devices in (1, 2, 4, 8):
        worker = Worker(model=model, kind="jax", devices=devices, **{**request, "batch": 16})
        turn = [worker.ask(["train", 1]) for _ in range(2)][-1]
        row = {"model": model, "side": "ours", "size": request["size"], "devices": devices}
        rate = 16 / turn["seconds"]
        rows.append(row | worker.facts | {"train_images_per_s": rate, "peak_gb": turn["peak_gb"]})
        worker.close()
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    columns = [column for column in COLUMNS if any(column[1] in row for row in rows)]
    cells = [[_cell(row.get(field), digits) for _, field, digits in columns] for row in rows]
    return "\n".join(tables.markdown([title for title, *_ in columns], cells, text_columns=2))


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return ""
    return value if digits is None else f"{value:,.{digits}f}"


def _median(turns: list[dict[str, Any]], field: str) -> float:
    return statistics.median(turn[field] for turn in turns)


def _with_fractions(rows: list[dict[str, Any]], gflops: float) -> list[dict[str, Any]]:
    """Of this machine's matrix-product rate, by PyTorch's count of what a step has to do."""
    work = next((row["gflop_per_image"] for row in rows if "gflop_per_image" in row), None)
    for row in rows if work else []:
        row["fraction_of_matmul"] = work * row["train_images_per_s"] / gflops
    return rows
