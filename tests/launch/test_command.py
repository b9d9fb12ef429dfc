"""What ends a command is one line and exit code 2."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFUSED = """
from cxv_jax.launch import command

def main(argv):
    raise PermissionError(13, "Permission denied", "place")

command.run(main)
"""


def test_what_the_system_refuses_anywhere_is_one_line() -> None:
    command = [sys.executable, "-c", REFUSED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: place: Permission denied\n")
