"""What a run will call later is compiled on a thread while it trains."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Ahead:
    """Programs that compile one after the other beside the training.

    JAX finds a compiled program by its function and the shapes, types and places of its arguments,
    so the call that follows has nothing to wait for. What does not compile fails there, not here.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._programs: dict[Any, Future[Any]] = {}

    def compile(self, name: Any, lower: Callable[[], Any]) -> None:
        """Queue ``lower().compile()``; of no effect for a name that was given before."""
        if name in self._programs:
            return
        self._programs[name] = self._pool.submit(lambda: lower().compile())

    def wait(self, name: Any) -> None:
        """Wait for one program, lest two threads compile it; of no effect where it is unknown."""
        if name in self._programs:
            self._programs[name].exception()

    def close(self) -> None:
        """Wait for the program that is compiling; the others are left."""
        self._pool.shutdown(cancel_futures=True)
