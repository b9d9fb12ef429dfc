"""Several processes: two train what one trains, stop together, and leave one set of files."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cxv_jax import distributed, runs, train
from cxv_jax.data.stored import Stored
from cxv_jax.errors import InputError
from cxv_jax.launch.command import as_flags
from experiments.configs import digits
from tests import quick_jax

ROOT = Path(__file__).parents[1]
SECONDS = 240  # A hang fails with its log, whatever else the machine does.
TINY = {
    "model.embed_dim": 8,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.head_dim": 4,
    "data.subset_per_class": 30,
    "data.loader": "streaming",
    "batch_size": 64,
    "phase1.epochs": 2,
    "phase2.epochs": 1,
    "fsdp": 2,
}
# experiments.train, in which process 1 alone gets a SIGTERM when it has read its N-th step.
PROGRAM = """
import os, runpy, signal, sys
from cxv_jax import report
at, seen, update = int(sys.argv.pop(1)), [], report.Report.update
def counted(self, *args, **kwargs):
    seen.append(1)
    if len(seen) == at and "--process_id=1" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
    return update(self, *args, **kwargs)
report.Report.update = counted
runpy.run_module("experiments.train", run_name="__main__")
"""


def config_of(tiny: dict[str, Any]) -> ConfigDict:
    config = digits.get_config("cpv")
    config.update_from_flattened_dict(tiny)
    return config


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def two_processes(workdir: Path, terminate_at: int = 0) -> list[tuple[int, str, str]]:
    """Train in two processes of two devices: exit code, stdout and stderr of both."""
    environment = {**os.environ, "XLA_FLAGS": quick_jax.flags(2)}
    environment |= {"CXV_ALLOCATOR": "off"}
    command = [sys.executable, "-c", PROGRAM, str(terminate_at), f"--workdir={workdir}"]
    command += ["--config=experiments/configs/digits.py:cpv"]
    command += [f"--config.{name}={value}" for name, value in TINY.items()]
    command += [f"--coordinator={free_address()}", "--num_processes=2"]
    with contextlib.ExitStack() as stack:
        files = [workdir.parent / f"{workdir.name}.{i}.{end}" for i in (0, 1) for end in "oe"]
        logs = [stack.enter_context(path.open("w+")) for path in files]
        processes = [
            subprocess.Popen(
                [*command, f"--process_id={i}"],
                cwd=ROOT,
                env=environment,
                stdout=logs[2 * i],
                stderr=logs[2 * i + 1],
            )
            for i in (0, 1)
        ]
        deadline = time.monotonic() + SECONDS
        try:
            for process in processes:
                process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            pytest.fail("still running:\n" + "\n".join(path.read_text() for path in files))
        finally:
            for process in processes:
                process.kill()
                process.wait()
    texts = [path.read_text() for path in files]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, pairs, strict=True)]


def records(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_figures(workdir: Path, reference: Path) -> None:
    """Every epoch once, and the same losses and accuracies to 1e-5, test included."""
    got, want = records(workdir), records(reference)
    assert [(r["kind"], r["epoch"]) for r in got] == [(r["kind"], r["epoch"]) for r in want]
    figures = ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5")
    for mine, theirs in zip(got, want, strict=True):
        names = figures if mine["kind"] == "epoch" else ["best_top1"]
        both = [[record[name] for name in names] for record in (mine, theirs)]
        np.testing.assert_allclose(both[0], both[1], atol=1e-5)
    phases = [json.loads((d / "summary.json").read_text())["phases"] for d in (workdir, reference)]
    assert phases[0].keys() == phases[1].keys()
    for name in phases[0]:
        assert phases[0][name].keys() == phases[1][name].keys()
        both = [list(phase[name].values()) for phase in phases]
        np.testing.assert_allclose(both[0], both[1], atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process (with eight devices)."""
    workdir = tmp_path_factory.mktemp("alone")
    train.train_and_evaluate(config_of(TINY), workdir)
    return workdir


def test_two_processes_train_what_one_does_and_one_writes(tmp_path: Path, alone: Path) -> None:
    (first, said, errors), (second, nothing, more_errors) = two_processes(tmp_path / "run")
    assert (first, second) == (0, 0), errors + more_errors
    assert_same_figures(tmp_path / "run", alone)
    assert "in 2 processes" in said
    assert said.splitlines()[-1].startswith("test top-1")
    # Gloo's threads write lines of their own there, at times within each other's.
    ours = [line for line in said.splitlines() if "Gloo" not in line and "peer ranks" not in line]
    assert ours
    assert not [line for line in ours if line and line in nothing]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_they_stop_together_and_one_process_goes_on(tmp_path: Path, alone: Path) -> None:
    (first, said, errors), (second, _, more_errors) = two_processes(
        tmp_path / "run", terminate_at=5
    )
    assert (first, second) == (128 + signal.SIGTERM,) * 2, errors + more_errors
    stops = [re.findall(r"interrupted: saved step (\d+)", e) for e in (errors, more_errors)]
    assert stops[0] == stops[1]
    (step,) = map(int, stops[0])
    assert 5 <= step < 8  # In the second epoch of four steps, before its end.
    lines: list[str] = []
    train.train_and_evaluate(config_of(TINY), tmp_path / "run", say=lines.append)
    resumed = "\n".join(lines)
    assert f"from step {step}" in resumed
    assert_same_figures(tmp_path / "run", alone)
    for output in (said, resumed):
        assert len(re.findall(r"^first step after \d.* to compile and run\)$", output, re.M)) == 1
        assert re.search(r"state [\d.]+ MB a device; the first step", output)


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (("host:1", 2, None), {}, "go together; missing: process_id="),
        ((None, None, 1), {"JAX_NUM_PROCESSES": "2"}, "missing: coordinator="),
        (("host", 2, 0), {}, "coordinator=host must be HOST:PORT"),
        (("host:1", 2, 2), {}, "process_id=2 must lie in 0..1, below num_processes=2"),
        (("host:1", 2, -1), {}, "process_id=-1 must be a whole number of at least 0"),
        (("host:1", 0, 0), {}, "num_processes=0 must be a whole number of at least 1"),
        (("host:1", None, 0), {"JAX_NUM_PROCESSES": "two"}, "num_processes=two must be"),
    ],
    ids=str,
)
def test_bad_combinations_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=re.escape(words)) as error:
        distributed.initialize(*arguments)
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)
    names = re.findall(r"(\w+)=", str(error.value))
    told = as_flags(str(error.value), ["coordinator", "num_processes", "process_id"])
    assert re.findall(r"--(\w+)=", told) == names != []


SRUN = {"SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
MPI = {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.96.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
OURS = dict(zip(distributed.VARIABLES, ("a:5", "3", "2"), strict=True))
DETECT = (None, None, None)  # What makes JAX ask the launcher.


@pytest.mark.parametrize(
    ("variables", "flags", "wanted"),
    [
        ({}, (), None),
        (OURS, (), ("a:5", 3, 2)),
        (OURS, ("b:6", None, 0), ("b:6", 3, 0)),
        (SRUN, (), DETECT),
        (SRUN | OURS, (), ("a:5", 3, 2)),
        (SRUN | {"SLURM_NTASKS": "1"}, (), None),
        ({"SLURM_NTASKS": "4"}, (), None),  # A batch script that does not use srun.
        (MPI, (), DETECT),
    ],
    ids=["alone", "variables", "flags first", "srun", "both", "one task", "no srun", "mpi"],
)
def test_processes_are_found_by_flags_variables_or_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: dict, flags: tuple, wanted: tuple | None
) -> None:
    calls = []

    def refuse(*arguments: Any, **_: Any) -> None:
        calls.append(arguments)
        raise RuntimeError("nobody there\nsecond line")

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    if wanted is None:
        return distributed.initialize(*flags)
    with pytest.raises(InputError, match="could not start.*: nobody there$"):
        distributed.initialize(*flags)
    assert calls == [wanted]


def test_what_fails_on_one_process_fails_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise InputError("no such file")

    assert distributed.together(lambda: 3) == 3
    with pytest.raises(InputError, match="no such file"):
        distributed.together(fail)
    monkeypatch.setattr(distributed, "agree", lambda value: lambda: max(value(), 1))
    with pytest.raises(InputError, match="another process could not go on"):
        distributed.together(lambda: 3)
    with pytest.raises(InputError, match="no such file"):
        distributed.together(fail)


def test_processes_of_different_runs_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} must be one folder that all processes see"):
        runs.check_joined(tmp_path, config_of(TINY))
    runs.open_run(tmp_path, config_of(TINY), fork=False, data=Stored((), {}, {}, 0))
    runs.check_joined(tmp_path, config_of(TINY))
    with pytest.raises(InputError, match="another config: batch_size was 64, is 128"):
        runs.check_joined(tmp_path, config_of(TINY | {"batch_size": 128}))


def test_the_launch_is_before_the_first_statement() -> None:
    program = (
        "import time; t = time.time(); from cxv_jax.machine import launched; print(t, launched())"
    )
    before = time.time()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    statement, launched = map(float, done.stdout.split())
    assert before - 0.05 < launched < statement
