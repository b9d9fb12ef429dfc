"""Names that others chose reach no terminal and no picture as they are."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cxv_jax.text import printable

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", [0x00, 0x07, 0x1B, 0x7F, 0x9B, 0x202E, 0x2066, 0xDCE9, 0xFEFF])
def test_what_steers_a_terminal_is_escaped(number: int) -> None:
    shown = printable(f"a{chr(number)}é")
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("unicode_escape").startswith(f"a{chr(number)}")
    assert printable("plain é ü 漢字 🙂 text") == "plain é ü 漢字 🙂 text"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_commands_print_any_name(encoding: str) -> None:
    code = (
        "import logging, sys; sys.argv = ['x']\n"
        "from cxv_jax.launch import command\n"
        "from cxv_jax.errors import InputError\n"
        "name = 'caf\\xe9\\x1b[2J\\udce9'\n"
        "def main(argv):\n"
        "    command.say(name + '\\n' + name)\n"
        "    logging.getLogger('cxv_jax').warning('%s', name)\n"
        "    raise InputError(name + '\\nsecond line')\n"
        "command.run(main)"
    )
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT), "CXV_ALLOCATOR": "off"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    cafe = "caf\\xe9" if encoding == "ascii" else "café"
    name = f"{cafe}\\x1b[2J\\udce9"
    assert done.stdout.decode(encoding).splitlines() == [name, name]
    assert done.stderr.decode(encoding).splitlines() == [name, f"error: {name}\\nsecond line"]
    assert done.returncode == 2
    assert logging.lastResort is not None
