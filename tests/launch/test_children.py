"""Children end when they are told to, one way or the other."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process without JAX, whose threads a fork would not bear.
PARENT = """
import sys
from pathlib import Path
from cxv_jax.launch import children

log = Path(sys.argv[1])
stop = lambda: "ready" in log.read_text()
print(children.run("tests.launch.stubborn", [], log, stop=stop, grace=0.1))
"""


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ended by SIGKILL after: ready\n", done.stderr
