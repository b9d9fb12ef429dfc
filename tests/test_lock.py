"""One folder has one run at a time; whatever ends a process frees it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxv_jax.errors import InputError
from cxv_jax.lock import FolderLock

HOLD = """
import sys, time
from cxv_jax.lock import FolderLock
with FolderLock(sys.argv[1]) as lock:
    lock.take()
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        words = rf"process {first.pid} on {os.uname().nodename}.*wait"
        with FolderLock(tmp_path) as second, pytest.raises(InputError, match=words):
            second.take()
        first.send_signal(signal.SIGKILL)
    with FolderLock(tmp_path) as second:
        second.take()
        with FolderLock(tmp_path) as third, pytest.raises(InputError, match=f"{os.getpid()}"):
            third.take()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_locked_once_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FolderLock(folder) as lock:
        lock.take()
        assert not folder.exists()
        folder.mkdir()
        lock.take()
        lock.take()
        with FolderLock(folder) as second, pytest.raises(InputError):
            second.take()


def test_a_folder_deleted_or_replaced_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with FolderLock(folder) as lock:
        lock.take()
        lock.check()
        folder.rename(tmp_path / "moved")
        with pytest.raises(InputError, match="deleted or moved"):
            lock.check()
        folder.mkdir()
        with pytest.raises(InputError, match="deleted or moved"):
            lock.check()
