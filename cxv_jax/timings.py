"""Where the seconds before the first step go."""

import time
from collections import defaultdict
from typing import NamedTuple

import jax

# What JAX tells of each compilation; reading a program from the cache counts as compiling it.
PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
COLUMNS = ("tracing", "lowering", "compiling")


class Stage(NamedTuple):
    """A part of the start.

    Attributes:
      name: in words.
      seconds: by the clock.
      of_these: seconds of all threads by ``COLUMNS``.
    """

    name: str
    seconds: float
    of_these: dict[str, float]


class Timings:
    """Stages from the launch to the first step, each with what JAX did in it on all threads.

    The update compiles beside the first state, and tracing a function within another counts once
    for each, so a column may exceed its stage.

    Args:
      launched: when the program was started (``time.time()``).
    """

    def __init__(self, launched: float) -> None:
        self._last = launched
        self._heard: defaultdict[str, float] = defaultdict(float)
        self.stages: list[Stage] = []
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def mark(self, name: str) -> None:
        """End the stage of this name."""
        now = time.time()
        self.stages.append(Stage(name, max(now - self._last, 0.0), dict(self._heard)))
        self._last = now
        self._heard.clear()

    def table(self) -> str:
        """A line a stage, and their sum; nothing is heard after it."""
        jax.monitoring.unregister_event_duration_listener(self._hear)
        total = {
            name: sum(stage.of_these.get(name, 0.0) for stage in self.stages) for name in COLUMNS
        }
        whole = Stage("in all", sum(stage.seconds for stage in self.stages), total)
        lines = [f"{'seconds':<28}{'clock':>10}" + "".join(f"{name:>11}" for name in COLUMNS)]
        for stage in (*self.stages, whole):
            cells = (stage.of_these.get(name, 0.0) for name in COLUMNS)
            lines.append(f"{stage.name:<28}{stage.seconds:>10.2f}" + "".join(map(_cell, cells)))
        return "\n".join(lines)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event in PARTS:
            self._heard[PARTS[event]] += duration_secs


def _cell(seconds: float) -> str:
    return f"{seconds:>11.2f}" if seconds else " " * 11
