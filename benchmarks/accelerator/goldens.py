"""Tests against stored tensors, run by pytest on the device and not a CPU, in full float32.

A child of the campaign: python -m benchmarks.accelerator.goldens --tests=PATH::NAME
--result=FILE.xml
"""

import importlib.util
import os
import sys
from pathlib import Path

from absl import flags

from cxv_jax.launch import command

_TESTS = flags.DEFINE_string("tests", None, "What pytest is to run.")
_RESULT = flags.DEFINE_string("result", None, "File to write, JUnit's XML.")
# tests/conftest.py sets these for a CPU where they are not set. A GPU's float32 products have
# 10 bits of mantissa by default (TF32): formulas are compared without that.
SETTINGS = {
    "JAX_PLATFORMS": "",
    "XLA_FLAGS": "",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
}


def main(argv: list[str]) -> None:
    """Run the tests; the file has an entry a test, whether it passed or not."""
    if argv or _TESTS.value is None or _RESULT.value is None:
        command.fail("expected --tests=PATH::NAME, --result=FILE and nothing besides flags")
    if importlib.util.find_spec("pytest") is None:
        command.fail("this needs the extra `test`: pytest, chex, beartype")
    if os.environ.get("CXV_GOLDENS") != "set":
        # The settings must stand before JAX is imported, and importing us has done that.
        os.environ |= {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
        os.environ["CXV_GOLDENS"] = "set"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    import pytest

    from benchmarks.accelerator.results import outcomes

    pytest.main(["-q", "-W", "ignore", f"--junitxml={_RESULT.value}", _TESTS.value])
    if not outcomes(Path(_RESULT.value)):
        Path(_RESULT.value).unlink(missing_ok=True)
        command.fail("pytest found no test")


if __name__ == "__main__":
    command.run(main)
