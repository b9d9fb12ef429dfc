"""Train several systems under one recipe, split and budget; write a report with pictures.

python -m experiments.compare --config=experiments/configs/compare_digits.py --workdir=runs/mine

Run the same command again to resume: finished runs are skipped. ``report.md``, ``results.csv`` and
the pictures are brought up to date after every run. The exit code is 1 if a system failed.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cxv_jax.launch import command
from experiments.configs import FOLDER

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of a comparison.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the comparison (default: runs/CONFIG).")


def main(argv: list[str]) -> int:
    """Compare; return the exit code."""
    if CONFIG.value is None or argv:
        command.fail("expected --config=PRESET or FILE.py and nothing besides flags; see --help")
    from experiments.compare.processes import compare  # Late: --help must not wait for JAX.

    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    workdir = Path(WORKDIR.value or Path("runs") / Path(path).stem)
    return compare(CONFIG.value, workdir, "experiments.compare")


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER)
