"""Train a classifier in two phases; run the same command again to resume.

python -m experiments.train --data=PICTURES
python -m experiments.train --data=PICTURES --minutes=30
python -m experiments.train --data=PICTURES --folds=5
python -m experiments.train --config=experiments/configs/digits.py:cpv
python -m experiments.train --config=experiments/configs/cifar10.py:cnv --config.batch_size=128
python -m experiments.train --from=runs/mine/summary.json --workdir=runs/again

With --data (a folder CLASS/*.jpg or train/CLASS/*.jpg, a csv or an npz file) everything is chosen
from the pictures, told in five lines, and stored with the run; --model, --recipe and
--config.FIELD=VALUE set it otherwise.

With --folds=5 it tells how good that is: five runs, each tested on another fifth of the pictures,
and a report of them all, as of experiments.compare; run the same command again to resume.

As one of two processes (those of Slurm's srun, Open MPI and a Cloud TPU find each other):
python -m experiments.train --config=… --coordinator=HOST:1234 --num_processes=2 --process_id=0
"""

from functools import partial
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from cxv_jax.launch import command
from experiments import own_pictures
from experiments.configs import FOLDER

CONFIG = config_flags.DEFINE_config_file("config", None, "A preset or FILE.py, with :VARIANT.")
FROM = flags.DEFINE_string("from", None, "In place of --config: summary.json of a run to repeat.")
DATA = flags.DEFINE_string("data", "", "Your pictures, in place of --config.")
MODEL = flags.DEFINE_string("model", "", "With --data: the model (default: by their number).")
RECIPE = flags.DEFINE_string("recipe", "", "With --data: small, strong or paper (likewise).")
FOLDS = flags.DEFINE_integer("folds", 0, "Cross-validate: so many runs; test each image once.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (default: runs/CONFIG-VARIANT).")
MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "As many epochs as end within so many minutes, by the measured rate."
)
FORK = flags.DEFINE_bool("fork", False, "Go on in --workdir although the config has changed.")
QUIET = flags.DEFINE_bool("quiet", None, "No progress bar (default: where stdout is no terminal).")
TIMINGS = flags.DEFINE_bool("timings", False, "Tell where the seconds before the first step go.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


complete = own_pictures.with_config


def main(argv: list[str]) -> int:
    """Run the training loop; return the exit code."""
    own = CONFIG.value is not None and config_path().startswith(f"{own_pictures.CONFIG}:")
    if (CONFIG.value is None) == (FROM.value is None) or argv:
        command.fail(
            "expected one of --data=PICTURES, --config=PRESET or FILE.py, --from=summary.json, and "
            "nothing besides flags; see --help"
        )
    if bool(DATA.value) != own or (not own and (MODEL.value or RECIPE.value)):
        command.fail("--data is in place of --config; --model and --recipe are for --data alone")
    if FOLDS.value:
        return cross_validate()
    import jax  # Late: --help must not wait for it.

    from cxv_jax import distributed, machine, minutes
    from cxv_jax.interrupt import Interrupted
    from cxv_jax.timings import Timings
    from cxv_jax.train import train_and_evaluate

    distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if own and jax.process_index() == 0:
        tell_choice()
    config, workdir, launched = the_config(), WORKDIR.value or default_workdir(), machine.launched()
    if MINUTES.present:
        config = minutes.within(config, Path(workdir), MINUTES.value, launched, command.say)
    timings = Timings(launched) if TIMINGS.value else None
    train = partial(train_and_evaluate, quiet=QUIET.value, fork=FORK.value, say=command.say)
    try:
        train(config, workdir, launched=launched, timings=timings)
    except Interrupted as stopped:
        command.say(f"\ninterrupted: {stopped}", error=True)
        return 128 + stopped.signal
    return 0


def cross_validate() -> int:
    """Train as often as there are folds, in processes of their own; return the exit code."""
    from experiments.compare.processes import compare
    from experiments.configs.comparison import in_folds

    if FORK.value or MINUTES.present or COORDINATOR.value or NUM_PROCESSES.value:
        command.fail(
            "--folds starts runs of its own: without --fork, --minutes, --coordinator, "
            "--num_processes"
        )
    if DATA.value:
        tell_choice()
    workdir = WORKDIR.value or f"{default_workdir()}-{FOLDS.value}folds"
    return compare(in_folds(the_config(), FOLDS.value), Path(workdir), "experiments.train")


def tell_choice() -> None:
    """Say what was chosen for the pictures, and why."""
    look = own_pictures.look(DATA.value, RECIPE.value)
    command.say("\n".join(own_pictures.told(look, CONFIG.value)))


def the_config() -> ConfigDict:
    """The config that the flags name."""
    from experiments.configs import from_json

    return CONFIG.value if FROM.value is None else from_json.get_config(FROM.value)


def default_workdir() -> str:
    """``runs/digits-cpv`` for ``--config=experiments/configs/digits.py:cpv``; repeated, -again.

    With ``--data`` by the name of the folder or file.
    """
    if FROM.value is not None:
        return str(Path("runs") / f"{Path(FROM.value).resolve().parent.name}-again")
    path = DATA.value and str(Path(DATA.value.rpartition(":")[2]).expanduser().resolve())
    path = path or config_path().partition(":")[0]
    return str(Path("runs") / f"{Path(path).stem}-{CONFIG.value.model.name}")


def config_path() -> str:
    """The ``--config`` argument as typed."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER, complete=complete)
