"""Faults from outside: start victims, damage their files, compare what came of them."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import psutil
from ml_collections import ConfigDict

from experiments.configs import digits
from tests import quick_jax

ROOT = Path(__file__).parents[2]
# What depends on time, place and memory.
MEASURED = {"seconds", "images_per_second", "peak_memory_bytes", "date", "command", "workdir"}
MEASURED |= {"revision"}  # A tree may be edited while tests run.
SETTINGS = {
    **{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick_jax.flags(), "CXV_ALLOCATOR": "off"},
    **{"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
}
CACHE = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")}  # Unless there is one.


def tiny_config() -> ConfigDict:
    """A run of seconds with all that a run has: both phases, validation, several checkpoints."""
    config = digits.get_config("cltv")
    config.model.update(embed_dim=8, depth=1)
    config.data.subset_per_class = 30
    config.batch_size = 64
    config.phase1.update(epochs=3, patience=5, schedule="constant", warmup_epochs=0)
    config.phase2.update(epochs=2, patience=5)
    return config


class Victims:
    """Starts trainings of one config in processes that meet a fault; a context manager.

    Args:
      folder: gets config and log.
    """

    def __init__(self, folder: Path):
        self._config, self._log = folder / "given.json", folder / "log.txt"
        self.give(tiny_config())
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            cwd=ROOT,
            env={**CACHE, **os.environ, **SETTINGS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def give(self, config: ConfigDict) -> None:
        """The config of the trainings that follow."""
        self._config.write_text(config.to_json())

    def __enter__(self) -> "Victims":
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.communicate()

    def run(self, workdir: Path, **fault: Any) -> int | None:
        """Train, with a fault (see ``victim.plant``), until the end or a stop (None)."""
        return self.wait(self.start(workdir, **fault))

    def run_until(self, workdir: Path, seconds: float) -> int | None:
        """Train, but kill -9 after so many seconds of computing; the exit code."""
        pid = self.start(workdir)
        process = psutil.Process(pid)  # Nobody has waited for it: the number stays its own.
        while process.status() != psutil.STATUS_ZOMBIE and _computed(process)[0] < seconds:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    @property
    def seconds(self) -> float:
        """What all trainings so far have computed; a busy machine makes it no longer."""
        return _computed(psutil.Process(self._server.pid))[1]

    def start(self, workdir: Path, **fault: Any) -> int:
        """Begin to train; the process id."""
        request = {"workdir": str(workdir), "config": str(self._config), "log": str(self._log)}
        return self._ask(start={**request, "fault": fault})["pid"]

    def wait(self, pid: int) -> int | None:
        """The exit code, negative for a signal; None for a process that is stopped."""
        return self._ask(wait=pid)["code"]

    def resume(self, pid: int) -> None:
        """Let a stopped process go on."""
        self._ask(resume=pid)

    @property
    def said(self) -> str:
        """The output of the training that was started last."""
        return self._log.read_text()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _computed(process: psutil.Process) -> tuple[float, float]:
    """Seconds of computing, of a process and of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system, times.children_user + times.children_system


def outcome(workdir: Path) -> dict[str, Any]:
    """Everything that a finished run has computed: arrays, metrics, summary."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found: dict[str, Any] = {
        "metrics": [computed(json.loads(line)) for line in lines],
        "summary": computed(json.loads((workdir / "summary.json").read_text())),
    }
    for step in sorted(final_steps(workdir)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Orbax would rather be told the devices.
            arrays = ocp.PyTreeCheckpointer().restore(workdir / "checkpoints" / step / "state")
        found[step] = {k: np.asarray(x).tobytes() for k, x in arrays.items()}
    return found


def final_steps(workdir: Path) -> set[str]:
    """The last checkpoint and the best of each phase, to which every way leads.

    The one before the last is another where a signal came within the last epoch.
    """
    records = {
        int(path.parent.name): json.loads(path.read_text())["best_of"]
        for path in (workdir / "checkpoints").glob("*/meta.json")
        if path.parent.name.isdecimal()
    }
    best = {label: step for step, label in sorted(records.items()) if label}
    return {str(step) for step in (max(records), *best.values())}


def computed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what is measured."""
    return {key: value for key, value in record.items() if key not in MEASURED}


def differing(workdir: Path, reference: dict[str, Any]) -> list[str]:
    """The parts of :func:`outcome` in which a run differs from the reference."""
    found = outcome(workdir)
    return sorted(k for k in found.keys() | reference.keys() if found.get(k) != reference.get(k))


def files(workdir: Path) -> set[str]:
    """Names of a run's files and folders; one for those that other programs name as they like."""
    names, final = set(), final_steps(workdir)
    for path in workdir.rglob("*"):
        parts = path.relative_to(workdir).parts
        if parts[0] == "checkpoints" and parts[1:2] and parts[1].isdecimal():
            parts = (parts[0], parts[1] if parts[1] in final else "another", *parts[2:])
        depth = 3 if parts[0] == "checkpoints" else 2
        free = parts[0] == "tensorboard" and len(parts) > 1
        names.add("tensorboard/…" if free else "/".join(parts[:depth]))
    return names


def leftovers(workdir: Path, reference: Path) -> list[str]:
    """What stands in one folder only; checkpoints that were set aside stay for a person."""
    other = files(workdir) ^ files(reference)
    return sorted(name for name in other if ".damaged" not in name)


@contextmanager
def damaged(path: Path, kind: str) -> Iterator[None]:
    """A file with a flipped bit, cut in half, emptied or gone; put back at the end."""
    before = path.read_bytes()
    middle = len(before) // 2
    if kind == "gone":
        path.unlink()
    else:
        flipped = before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :]
        path.write_bytes({"flipped": flipped, "cut": before[:middle], "empty": b""}[kind])
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(before)
