"""Keep freed memory in the process: on a CPU it makes training faster.

XLA's CPU client takes its large temporaries from malloc and frees them each step. With glibc's
defaults they go back to the kernel, which zeroes every page again on the next step. glibc reads
these settings once, when a process starts, so a program that wants them has to start itself again.

JAX hands each step to a thread of its own, which says that the results are there before it frees
the temporaries: the next step takes its own meanwhile, and as glibc 2.36 often does not find the
freed block again, a process held two or three copies. A step in the caller's thread has freed them
when it returns.
"""

import os
import sys

TUNABLES = {
    "glibc.malloc.arena_max": "1",
    "glibc.malloc.mmap_max": "0",  # No mmap of its own for a large block: it would be unmapped.
    "glibc.malloc.trim_threshold": "100000000000",  # Never give the heap's top back.
}
GUARD = "CXV_ALLOCATOR"  # "off" or "done": leave the process as it is.


def environment() -> dict[str, str]:
    """``os.environ`` with the settings; what the user has set in GLIBC_TUNABLES wins."""
    own = ":".join(f"{k}={v}" for k, v in TUNABLES.items())
    user = os.environ.get("GLIBC_TUNABLES")
    return {**os.environ, "GLIBC_TUNABLES": f"{own}:{user}" if user else own, GUARD: "done"}


def ensure() -> None:
    """Start this program again with the settings, once, if it will compute on a Linux CPU.

    Call it before anything imports JAX or starts a thread. ``CXV_ALLOCATOR=off`` prevents it; so
    does another allocator in ``LD_PRELOAD``.
    """
    if sys.platform == "linux" and GUARD not in os.environ and not _other_allocator() and _on_cpu():
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment())


def compute_inline() -> None:
    """Run each step on a CPU in the thread that asks for it; call it before JAX finds its devices.

    Without effect on other devices, and on programs for several.
    """
    import jax  # Late: --help must not wait for it.

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def _other_allocator() -> bool:
    return "malloc" in os.environ.get("LD_PRELOAD", "")


def _on_cpu() -> bool:
    """Whether JAX will choose the CPU, told without importing it (an import takes seconds)."""
    platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(os.path.exists(p) for p in ("/dev/nvidiactl", "/dev/accel0", "/dev/vfio/0"))
