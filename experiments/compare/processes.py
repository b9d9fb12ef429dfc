"""A comparison on a screen: its runs as child processes, interrupted and told as commands are."""

import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cxv_jax.interrupt import Interrupt, Interrupted
from cxv_jax.launch import children, command
from experiments.compare.carry_out import Launch, carry_out
from experiments.configs import FOLDER

FROM_JSON = FOLDER / "from_json.py"


def compare(config: ConfigDict, workdir: Path, module: str) -> int:
    """Carry out a comparison that ``python -m MODULE`` was asked for; return the exit code."""
    typed = f"python -m {module} {shlex.join(sys.argv[1:])}"
    with Interrupt() as interrupt:
        try:
            launch = launcher(workdir / ".lock", interrupt)
            whole = carry_out(config, workdir, launch, command=typed, say=command.say)
        except Interrupted as stopped:
            print(f"\ninterrupted: {stopped}", file=sys.stderr)
            return 128 + stopped.signal
    command.say(f"the report is in {workdir / 'report.md'}")
    return int(not whole)


def launcher(lock: Path, interrupt: Interrupt) -> Launch:
    """Runs as child processes, which hold the lock and end with us."""
    held: list[int] = []

    def check() -> None:
        if interrupt.signal:
            raise Interrupted(interrupt.signal, "run the same command to continue")

    def child(module: str, arguments: list[str], log: Path) -> str | None:
        if not held:
            held.append(children.hold(lock, check, command.say))
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
