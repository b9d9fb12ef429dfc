"""Measure everything on this machine's accelerator, in pieces of a few minutes.

python -m benchmarks.accelerator --data_dir=FOLDER --minutes=9 --output=runs/accelerator

FOLDER holds CIFAR-10. Give the same command again until it says that nothing is left: what is done
is skipped, an interrupted training resumes, what failed is tried again after all else. The order:
correctness; the device's own rates; speed, memory and energy of all systems; PyTorch beside us;
trainings; ``--stages=training`` goes ahead. ``report.md`` is up to date after every task, its
pictures after every piece.

A piece may overrun ``--minutes`` by the half minute that a training has to save itself. Where the
machine is a fresh one each time, carry ``--output`` there and back without ``runs`` and ``cache``:
``parts`` holds the checkpoints of the trainings in files of at most 15 MB.

A machine without network, and without what the package needs besides JAX, gets it as wheels, made
where there is network with the Python of that machine (here 3.11), and carried with the checkout:

pip download --dest wheels --only-binary=:all: --python-version 3.11 \
  'ml_collections>=1.1.0,<2' 'grain>=0.2.18,<0.3' 'tensorflow-datasets>=4.9.10,<5' \
  'tensorboardX>=2.6.5,<3' 'importlib_resources>=6' 'jaxtyping>=0.3,<0.4' 'tqdm>=4.66,<5' \
  'beartype>=0.20,<1' 'chex>=0.1.92,<0.2' 'pytest>=8,<10' 'nvidia-ml-py>=12'
pip install --no-index --find-links=wheels --no-deps wheels/*.whl
"""

import os
import shlex
import sys
import time
from pathlib import Path

from absl import flags

from cxv_jax.launch import children, command

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with CIFAR-10's archive or its folder.")
_MINUTES = flags.DEFINE_float("minutes", 9, "Of this piece.", lower_bound=0.01)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for records, tables, pictures, checkpoints.")
_STAGES = flags.DEFINE_list(
    "stages", ["correctness", "device", "costs", "torch", "training"], "Only these, in this piece."
)
_REHEARSE = flags.DEFINE_bool("rehearse", False, "At toy size, with scikit-learn's digits.")


def main(argv: list[str]) -> int:
    """Carry out one piece; return the exit code, 1 if a task has failed."""
    if argv or _OUTPUT.value is None or (_DATA_DIR.value is None and not _REHEARSE.value):
        command.fail("expected --data_dir=FOLDER, --output=FOLDER and nothing besides flags")
    began = time.monotonic()
    from benchmarks.accelerator import tasks  # Late: --help must not wait for JAX.
    from benchmarks.accelerator.campaign import Campaign
    from cxv_jax.interrupt import Interrupt

    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    # Of the processes of one comparison each would take most of the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # What was compiled in one piece is not compiled again in the next.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(output.absolute() / "cache")
    todo = (
        tasks.rehearsal(output) if _REHEARSE.value else tasks.all_of(_DATA_DIR.value or "", output)
    )
    with Interrupt() as interrupt:
        lock = children.hold(output / ".lock", lambda: _leave(interrupt.signal), _say)

        def asked() -> bool:
            return bool(interrupt.signal)

        def launch(task: tasks.Task, log: Path, stop: tasks.Stop) -> str | None:
            return children.run(
                task.module,
                task.arguments,
                log,
                keep_open=(lock,),
                stop=lambda: asked() or stop(),
                grace=tasks.GRACE,
            )

        campaign = Campaign(todo, output, launch, say=_say)
        campaign.carry_out(60 * _MINUTES.value, began, asked, _STAGES.value)
    rest = [argument for argument in sys.argv[1:] if not argument.startswith("--stages")]
    _say(campaign.what_next(shlex.join(["python", "-m", "benchmarks.accelerator", *rest])))
    return 128 + interrupt.signal if interrupt.signal else int(campaign.failed > 0)


def _say(line: str) -> None:
    print(line, flush=True)


def _leave(signal: int) -> None:
    if signal:
        sys.exit(128 + signal)


if __name__ == "__main__":
    command.run(main)
