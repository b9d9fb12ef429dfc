"""SIGINT and SIGTERM as a question the training loop asks, not an exception anywhere."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):  # noqa: N818 - not an error: it was asked for.
    """Training was asked to stop; everything is saved. ``signal`` is the signal's number."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.signal = number


class Interrupt:
    """While entered, remembers the first SIGINT or SIGTERM in ``signal`` (0 before)."""

    signal = 0

    def __enter__(self) -> "Interrupt":
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._remember) for number in numbers}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
