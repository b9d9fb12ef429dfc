"""Commands of this package in processes of their own: a crash or its memory stays theirs."""

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
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
    grace: float | None = None,
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
      grace: seconds that it has to do so before it is killed; None: all it needs.
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
        code = _wait(child, stop, grace)
    if code == 0:
        return None
    last = _last_line(log).removeprefix("error: ")
    return f"ended by {signal.Signals(-code).name} after: {last}" if code < 0 else last


def hold(path: Path, check: Callable[[], object], say: Callable[[str], object]) -> int:
    """Lock the file ``path`` for this process and its children, which may outlive it.

    Args:
      path: made if it is not there.
      check: called twice a second while another process, or what one that was killed has left
        running, holds it; an exception ends the wait.
      say: told once that it has to wait.

    Returns:
      The open file, for ``keep_open``.
    """
    import fcntl  # Not on Windows.

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for attempt in itertools.count():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 0:
                say(f"waiting for another process that works in {path.parent}")
            check()
            time.sleep(0.5)
    return descriptor


def _wait(child: subprocess.Popen[bytes], stop: Callable[[], bool], grace: float | None) -> int:
    while True:
        try:
            return child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop():
                return _end(child, grace)


def _end(child: subprocess.Popen[bytes], grace: float | None) -> int:
    child.terminate()
    try:
        return child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _end_with_parent() -> Callable[[], None]:
    """What the child calls before it becomes another program: nothing may be imported there."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
