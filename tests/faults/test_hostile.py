"""Hostile and damaged files in a process of their own; ``make hostile`` is the long form."""

import re
import subprocess
import sys

from tests.faults.harness import ROOT


def test_only_one_line_leaves_soon_and_in_little_memory() -> None:
    command = [sys.executable, "-m", "tests.faults.hostile", "--pictures=160", "--files=100"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    figures = re.findall(r"(\d+) \w+.*: (\d+) read, (\d+) refused, 0 wrong", found.stdout)
    assert [int(number) for number, _, _ in figures] == [160, 100]
    assert all(int(read) + int(refused) == int(n) for n, read, refused in figures)
    assert all(int(read) and int(refused) for _, read, refused in figures)
