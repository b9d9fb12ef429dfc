"""One folder, one run: a lock that the operating system frees however the process ends."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from cxv_jax import machine
from cxv_jax.errors import InputError

NAME = ".lock"


class FolderLock:
    """Keeps other processes out of a folder while entered; :meth:`take` takes it.

    The file ``.lock`` says who holds it and goes with the lock. A killed process leaves the file,
    which keeps nobody out: what counts is the lock on it, and that has ended with the process.
    """

    def __init__(self, folder: Path | str):
        self._folder, self._path = Path(folder), Path(folder) / NAME
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._descriptor is not None:
            if self._is_at(self._descriptor):
                with contextlib.suppress(OSError):
                    self._path.unlink()  # Before it is free: the next one makes its own.
            os.close(self._descriptor)
            self._descriptor = None

    def take(self) -> None:
        """Lock the folder if it is there and not locked by this object already.

        Raises:
          InputError: another process (or another run in this one) has it, or it is not writable.
        """
        while self._descriptor is None and self._folder.is_dir():
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise InputError(
                    f"{self._folder} cannot be written to ({error.strerror})"
                ) from error
            if not machine.try_lock(descriptor):
                holder = os.read(descriptor, 1000).decode(errors="replace")
                os.close(descriptor)
                raise InputError(
                    f"{self._folder} is in use by {holder or 'another process'}: wait until it "
                    "ends, stop it, or name another workdir"
                )
            if self._is_at(descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                self._descriptor = descriptor
            else:  # The holder before us has removed this file.
                os.close(descriptor)

    def check(self) -> None:
        """Whether the folder is still the one that was locked.

        Raises:
          InputError: it was deleted, moved or replaced.
        """
        if self._descriptor is not None and not self._is_at(self._descriptor):
            raise InputError(
                f"{self._folder} was deleted or moved while in use: put it back, or start anew"
            )

    def _is_at(self, descriptor: int) -> bool:
        """Whether the open file is the one that others see."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except OSError:
            return False
