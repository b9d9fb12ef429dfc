"""JAX and XLA as the tests run them: a program costs a third to compile, and computes the same."""

import itertools
import threading
from importlib.metadata import version
from typing import Any

# XLA's newer code generator takes three times as long for the small programs of a test. JAX 0.12
# no longer has the older one: an unknown flag would end the process.
OLDER = version("jaxlib").startswith("0.10.")
CODE = "--xla_cpu_use_fusion_emitters=false" if OLDER else ""
# Options to compile with as a user does, for tests of rounding and of memory.
AS_USED: dict[str, Any] = {"xla_cpu_use_fusion_emitters": True} if OLDER else {}


def flags(devices: int = 1) -> str:
    """``XLA_FLAGS`` of a process that sees ``devices`` devices of a CPU."""
    return f"--xla_force_host_platform_device_count={devices} {CODE}".strip()


def share_contexts() -> None:
    """Ten programs of a thread share one context of MLIR, as they do by themselves in JAX 0.12."""
    from jax._src.interpreters import mlir

    make, mine = mlir.make_ir_context, threading.local()
    if hasattr(mlir, "_thread_local_context"):
        return

    def shared() -> Any:
        mine.count = getattr(mine, "count", itertools.count())
        if next(mine.count) % 10 == 0:
            mine.context = make()
        return mine.context

    mlir.make_ir_context = shared
