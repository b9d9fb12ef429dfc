"""Commands of this package in processes of their own: a crash or its memory stays theirs."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def run(
    module: str,
    arguments: Iterable[str],
    log: Path,
    *,
    keep_open: tuple[int, ...] = (),
    stop: Callable[[], bool] = lambda: False,
) -> str | None:
    """Run ``python -m module arguments``; return None, or one line on what went wrong.

    On Linux the child gets SIGTERM when this process ends, however it does, and ``stop`` sends it
    one too.

    Args:
      module: of this package.
      arguments: its command line.
      log: gets its output, after what is there.
      keep_open: file descriptors that the child inherits, for locks that shall outlive us.
      stop: asked twice a second whether the child shall end.
    """
    command = [sys.executable, "-m", module, *arguments]
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=keep_open,
            preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
        )
        code = _wait(child, stop)
    if code == 0:
        return None
    last = _last_line(log).removeprefix("error: ")
    return f"ended by {signal.Signals(-code).name} after: {last}" if code < 0 else last


def _wait(child: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int:
    while True:
        try:
            return child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop():
                child.terminate()
                return child.wait()


def _end_with_parent() -> Callable[[], None]:
    """What the child calls before it becomes another program: nothing may be imported there."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
