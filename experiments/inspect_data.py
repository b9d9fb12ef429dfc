"""Show what training will see: counts, pixel statistics, memory, and a picture of the images.

python -m experiments.inspect_data --config=experiments/configs/cifar10.py:cpv,strong [--out=DIR]

DIR/contact_sheet.png has a row for each of some classes: training images as they are stored, then
as each phase's augmentation hands them on. Every column is one batch: mixup and CutMix mix the
images of mirrored rows, and the title says how much of a row's label stays its own.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cxv_jax.launch import command
from experiments.configs import FOLDER

CONFIG = config_flags.DEFINE_config_file("config", None, "A preset or FILE.py, with :VARIANT.")
OUT = flags.DEFINE_string("out", "runs/inspect", "Folder for contact_sheet.png.")


def main(argv: list[str]) -> None:
    """Print the report and write the picture."""
    if CONFIG.value is None or argv:
        command.fail("expected --config=PRESET or FILE.py and nothing besides flags; see --help")
    from cxv_jax.errors import InputError  # Late: --help must not wait for JAX.
    from experiments import data_report

    config = CONFIG.value
    dataset = data_report.open_dataset(config)
    for section in data_report.SECTIONS:
        print(*section(config, dataset), sep="\n", end="\n\n", flush=True)
    path = Path(OUT.value).expanduser() / "contact_sheet.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data_report.write_sheet(config, dataset, path)
    except OSError as error:
        raise InputError(f"--out={OUT.value}: cannot write there ({error})") from error
    print(f"wrote {path}")


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER)
