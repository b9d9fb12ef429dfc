"""Trainings that meet a fault: each a process of its own, forked where everything is imported.

Reads a line of JSON a training from stdin (see :func:`serve`), answers with one: pid or exit code.
An import of JAX takes longer than such a training; a fork of this process has it behind itself.
"""

import errno
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from cxv_jax import checkpoint, plots, report, runs, session, step, train
from cxv_jax.launch import command
from experiments import train as program

Act = Callable[[str], object]  # Takes the file, or the instant.
# Each is killed as it begins. The names of functions that stand for the instants of a run.
INSTANTS: dict[str, tuple[Any, str]] = {
    "start": (runs, "open_run"),
    "compile": (step, "train_step"),
    "epoch": (report.Report, "update"),
    "evaluation": (session.Session, "evaluate"),
    "save": (checkpoint.Checkpointer, "save"),
    "writing": (checkpoint, "seal"),
    "handoff": (train, "hand_over"),
    "test": (train, "final_test"),
    "report": (report.Report, "finish"),
    "picture": (plots, "curves"),
}
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "open")
# What a file system without inodes, or a quota, refuses: new files and folders, and nothing else.
NO_MORE_FILES = {"inodes": errno.ENOSPC, "quota": errno.EDQUOT}
SIGNALS = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT, "hang up": signal.SIGHUP}


def at_instant(name: str, count: int, act: Act) -> None:
    """Call ``act`` when a function of ``INSTANTS`` is called for the ``count``-th time."""
    owner, attribute = INSTANTS[name]
    original, seen = getattr(owner, attribute), [0]

    def planted(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == count:
            act(name)
        return original(*args, **kwargs)

    setattr(owner, attribute, planted)


def at_operation(workdir: Path, count: int, act: Act, only_new: bool = False) -> None:
    """Call ``act`` before the ``count``-th change of a file in the folder, and before later ones.

    Python's own changes: the arrays of a checkpoint are written outside of Python. With
    ``only_new`` those count that make a file or a folder.
    """
    seen = [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(args[0], str | os.PathLike | bytes):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = os.fsdecode(args[0])
        made = event == "os.mkdir" or (event == "open" and args[2] & os.O_CREAT)
        if only_new and (not made or os.path.lexists(path)):
            return
        if path.startswith(str(workdir)):
            seen[0] += 1
            if seen[0] >= count:
                act(path)

    sys.addaudithook(hook)


def refuse(number: int) -> Act:
    """What the operating system answers where nothing can be written."""

    def act(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return act


def stop_with(number: int) -> Act:
    """Send this process a signal."""
    return lambda _: os.kill(os.getpid(), number)


def set_clock_back(_: str) -> None:
    """From now on the clock shows yesterday, and goes backwards."""
    real, began = time.time, time.time()
    time.time = lambda: 2 * began - real() - 86400


def plant(fault: dict[str, Any], workdir: Path) -> None:
    """Arrange for the fault of a request; ``clock`` sets the clock back from the start."""
    acts = {
        **{name: stop_with(number) for name, number in SIGNALS.items()},
        **{name: refuse(number) for name, number in NO_MORE_FILES.items()},
        "kill": stop_with(signal.SIGKILL),
        "pause": stop_with(signal.SIGSTOP),
        "full": refuse(errno.ENOSPC),
        "read-only": refuse(errno.EROFS),
        "clock": set_clock_back,
        "tell": lambda _: os.write(2, b"operation\n"),
    }
    if "clock" in fault:
        set_clock_back("")
    if "largest" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["largest"], fault["largest"]))
    if "instant" in fault:
        at_instant(fault["instant"], fault.get("count", 1), acts[fault["act"]])
    if "operation" in fault:
        act, only_new = fault["act"], fault["act"] in NO_MORE_FILES
        at_operation(workdir, fault["operation"], acts[act], only_new)


def train_here(request: dict[str, Any]) -> None:
    """The command ``experiments.train``, with its fault, in this (forked) process."""
    workdir, log = Path(request["workdir"]), Path(request["log"])
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdin.close()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup it would be ignored.
    sys.argv = ["train", f"--from={request['config']}", f"--workdir={workdir}", "--quiet"]
    flags.FLAGS.unparse_flags()
    plant(request.get("fault", {}), workdir)
    command.run(program.main)


def serve() -> None:
    """Answer requests: ``{"start": {...}}``, ``{"wait": pid}``, ``{"resume": pid}``."""
    warnings.simplefilter("ignore")
    for slow in ("sklearn.datasets", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(slow)  # Else every training would.
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "start" in request:
            answer["pid"] = pid = os.fork()
            if not pid:
                end_as(request["start"])
        elif "resume" in request:
            os.kill(request["resume"], signal.SIGCONT)
        else:
            _, status = os.waitpid(request["wait"], os.WUNTRACED)
            stopped = os.WIFSTOPPED(status)
            answer["code"] = None if stopped else os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def end_as(request: dict[str, Any]) -> None:
    """Train, then end this process as Python would, without returning to the loop above."""
    code = 1
    try:
        train_here(request)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
