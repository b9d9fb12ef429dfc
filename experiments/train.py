"""Train a classifier in two phases; run the same command again to resume.

python -m experiments.train --config=experiments/configs/digits.py:cpv
python -m experiments.train --config=experiments/configs/cifar10.py:cnv --config.batch_size=128
python -m experiments.train --from=runs/mine/summary.json --workdir=runs/again

As one of two processes (those of Slurm's srun, Open MPI and a Cloud TPU find each other):
python -m experiments.train --config=… --coordinator=HOST:1234 --num_processes=2 --process_id=0
"""

from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cxv_jax.launch import command

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, FILE.py:VARIANT.")
FROM = flags.DEFINE_string("from", None, "In place of --config: summary.json of a run to repeat.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (default: runs/CONFIG-VARIANT).")
FORK = flags.DEFINE_bool("fork", False, "Go on in --workdir although the config has changed.")
QUIET = flags.DEFINE_bool("quiet", None, "No progress bar (default: where stdout is no terminal).")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def main(argv: list[str]) -> int:
    """Run the training loop; return the exit code."""
    if (CONFIG.value is None) == (FROM.value is None) or argv:
        command.fail(
            "expected --config=FILE.py[:VARIANT] or --from=summary.json, and nothing besides "
            "flags; see --help"
        )
    from cxv_jax import distributed, machine  # Late: --help must not wait for JAX.
    from cxv_jax.interrupt import Interrupted
    from cxv_jax.train import train_and_evaluate
    from experiments.configs import from_json

    distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    config = CONFIG.value if FROM.value is None else from_json.get_config(FROM.value)
    workdir = WORKDIR.value or default_workdir()
    train = partial(train_and_evaluate, quiet=QUIET.value, fork=FORK.value, say=command.say)
    try:
        train(config, workdir, launched=machine.launched())
    except Interrupted as stopped:
        command.say(f"\ninterrupted: {stopped}", error=True)
        return 128 + stopped.signal
    return 0


def default_workdir() -> str:
    """``runs/digits-cpv`` for ``--config=experiments/configs/digits.py:cpv``; repeated, -again."""
    if FROM.value is not None:
        return str(Path("runs") / f"{Path(FROM.value).resolve().parent.name}-again")
    path, _, _ = str(flags.FLAGS["config"].value and config_path()).partition(":")
    return str(Path("runs") / f"{Path(path).stem}-{CONFIG.value.model.name}")


def config_path() -> str:
    """The ``--config`` argument as typed."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


if __name__ == "__main__":
    command.run(main)
