"""The machine a program runs on: memory, devices, versions, time; the only place that asks it."""

import logging
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import psutil

from cxv_jax.errors import InputError

ROOT = Path(__file__).parents[1]
BOMB = (2**30, 100)  # Unpacked bytes, and times the packed ones: no data reach both.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def available_memory() -> int:
    """Bytes that the process could still take without swapping."""
    return psutil.virtual_memory().available


def require_memory(file: Path, needed: int) -> None:
    """Refuse a file that would not fit, before it is unpacked.

    Raises:
      InputError: ``needed`` bytes are more than are available, or are a few bytes blown up.
    """
    most, times = BOMB
    if needed > most and needed > times * file.stat().st_size:
        raise InputError(
            f"{file}: unpacked it takes {needed / 1e9:,.1f} GB, more than {times} times its own "
            "size; if that is right, store it without compression"
        )
    if needed > (free := available_memory()):
        raise InputError(
            f"{file}: unpacked it takes {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB of memory are "
            "free; use a smaller one"
        )


def device_memory() -> int:
    """Bytes of one accelerator; on a CPU each device's share of the machine's free memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or available_memory() // jax.local_device_count()


def peak_memory() -> dict[str, Any]:
    """Most memory held so far, in bytes: of the accelerator if it tells, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"peak_memory_bytes": stats["peak_bytes_in_use"], "peak_memory_of": "device"}
    return {"peak_memory_bytes": process_peak(), "peak_memory_of": "process"}


def process_peak() -> int:
    """Most bytes of memory that this process has held; Windows tells its own figure for it."""
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return info.peak_wset
    import resource  # Not on Windows.

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment() -> dict[str, Any]:
    """What a figure depends on besides the config: code, versions, device, memory, date."""
    devices = jax.devices()
    return {
        "command": " ".join(["python", "-m", *_command()]),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "revision": revision(),
        **peak_memory(),
    }


def revision(checkout: Path = ROOT) -> str:
    """The git commit of a checkout, then ``(modified)`` where tracked files differ; else empty."""
    place = [f"--git-dir={checkout / '.git'}", f"--work-tree={checkout}"]  # Never a folder above.
    ask = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty= (modified)"]
    command = ["git", "--no-optional-locks", *place, *ask]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if somebody else has locked it.

    True without a lock where there are none: on Windows, and on file systems that lack them.
    """
    try:
        import fcntl  # Not on Windows.

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        logging.getLogger(__name__).warning("files cannot be locked here: start no second process")
    return True


def launched() -> float:
    """When this process began (``time.time()``), before Python started."""
    try:  # To a hundredth of a second, where Linux tells; psutil knows the boot to a second.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return psutil.Process().create_time()
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")


def _command() -> list[str]:
    """``experiments.train --flag``, as the user typed it."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        program = program.parent.with_suffix(".py")
    name = f"{program.parent.name}.{program.stem}" if program.suffix == ".py" else program.name
    return [name, *sys.argv[1:]]
