"""Train several systems under one recipe, split and budget; write a report with pictures.

python -m experiments.compare --config=experiments/configs/compare_digits.py --workdir=runs/mine

Run the same command again to resume: finished runs are skipped. ``report.md``, ``results.csv`` and
the pictures are brought up to date after every run. The exit code is 1 if a system failed.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cxv_jax.launch import children, command
from experiments.configs import FOLDER

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of a comparison.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the comparison (default: runs/CONFIG).")

FROM_JSON = Path(__file__).parents[1] / "configs" / "from_json.py"


def main(argv: list[str]) -> int:
    """Compare; return the exit code."""
    if CONFIG.value is None or argv:
        command.fail("expected --config=PRESET or FILE.py and nothing besides flags; see --help")
    from cxv_jax.interrupt import Interrupt, Interrupted  # Late: --help must not wait for JAX.
    from experiments.compare.carry_out import carry_out

    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    workdir = Path(WORKDIR.value or Path("runs") / Path(path).stem)
    typed = " ".join(["python -m experiments.compare", *sys.argv[1:]])
    with Interrupt() as interrupt:
        try:
            launch = launcher(workdir / ".lock", interrupt)
            whole = carry_out(CONFIG.value, workdir, launch, command=typed, say=_say)
        except Interrupted as stopped:
            print(f"\ninterrupted: {stopped}", file=sys.stderr)
            return 128 + stopped.signal
    print(f"the report is in {workdir / 'report.md'}")
    return int(not whole)


def launcher(lock: Path, interrupt: Any) -> Any:
    """Runs as child processes, which hold the lock and end with us."""
    from cxv_jax.interrupt import Interrupted
    from experiments.compare.carry_out import Launch

    held: list[int] = []

    def check() -> None:
        if interrupt.signal:
            raise Interrupted(interrupt.signal, "run the same command to continue")

    def child(module: str, arguments: list[str], log: Path) -> str | None:
        if not held:
            held.append(children.hold(lock, check, _say))
        check()
        stop = functools.partial(getattr, interrupt, "signal")
        error = children.run(module, arguments, log, keep_open=tuple(held), stop=stop)
        check()
        return error

    def profile(system: dict[str, Any], options: dict[str, int], out: Path, log: Path) -> Any:
        arguments = [f"--{name}={number}" for name, number in options.items() if number]
        arguments += ["--static_only"] * (not options["repeats"])
        arguments += [f"--system={json.dumps(system)}", f"--json={out}"]
        return child("experiments.benchmark", arguments, log)

    def train(config: Path, folder: Path, log: Path) -> str | None:
        arguments = [f"--config={FROM_JSON}:{config}", f"--workdir={folder}", "--quiet"]
        return child("experiments.train", arguments, log)

    return Launch(profile, train)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER)
