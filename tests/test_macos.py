"""Training where there is no ``/proc``: macOS, as far as Linux can play it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import quick_jax

ROOT = Path(__file__).parents[1]
SECONDS = 240

# A program whose Python says it is on macOS, has no ``/proc`` and none of Linux's own functions.
# psutil alone may read there: on macOS it asks the kernel by another way.
MACOS = """
import builtins, io, os, sys, sysconfig, time
import psutil
import urllib.request  # With modules of Python's own that only a macOS has, as the next line.
sysconfig.get_config_vars()

def refusing(function):
    def call(path, *args, **kwargs):
        text = os.fspath(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        text = text.decode() if isinstance(text, bytes) else text
        caller = sys._getframe(1).f_globals["__name__"]
        if (text + "/").startswith("/proc/") and not caller.startswith("psutil"):
            raise FileNotFoundError(2, "No such file or directory", text)
        return function(path, *args, **kwargs)
    return call

for module, name in [(io, "open"), (os, "open"), (os, "listdir"), (os, "scandir"), (os, "stat")]:
    setattr(module, name, refusing(getattr(module, name)))
builtins.open = io.open
os.readlink = refusing(os.readlink)
del os.sched_getaffinity, time.CLOCK_BOOTTIME
sys.platform = "darwin"
"""
TINY = [
    "--config.model.embed_dim=8",
    "--config.model.depth=1",
    "--config.model.num_heads=2",
    "--config.model.head_dim=4",
    "--config.data.subset_per_class=30",
    "--config.phase1.epochs=1",
    "--config.phase2.epochs=1",
]


def on_macos(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program there, with these arguments."""
    return subprocess.run(
        [sys.executable, "-c", MACOS + program, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "CXV_ALLOCATOR"}
        | {"XLA_FLAGS": quick_jax.flags()},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(
    "read", ["open('/proc/meminfo')", "Path('/proc/self/stat').read_text()", "os.stat('/proc')"]
)
def test_the_simulation_has_no_proc(read: str) -> None:
    told = on_macos(f"from pathlib import Path\n{read}")
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].startswith("FileNotFoundError: [Errno 2] No such file")


def test_the_default_run_starts_and_ends_on_macos(tmp_path: Path) -> None:
    program = "import runpy\nrunpy.run_module('experiments.train', run_name='__main__')"
    config = "--config=experiments/configs/digits.py:cpv"
    told = on_macos(program, config, *TINY, f"--workdir={tmp_path}")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1].startswith("test top-1")
    assert (tmp_path / "summary.json").is_file()


def test_memory_and_launch_are_told_on_macos() -> None:
    program = """
from cxv_jax import machine
started = time.time() - machine.launched()
print(machine.available_memory(), machine.process_peak(), -1 <= started <= 60)
"""
    told = on_macos(program)
    assert told.returncode == 0, told.stderr
    available, peak, recent = told.stdout.split()
    assert int(available) > 2**20
    assert int(peak) > 10 * 1024  # macOS counts bytes where Linux, which answers here, counts KiB.
    assert recent == "True"
