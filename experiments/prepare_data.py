"""Prepare a data set for tfds:NAME, from a local archive or by downloading it.

python -m experiments.prepare_data cifar10 [--archive=FILE [--sha256=DIGEST]] [--data_dir=DIR]

CIFAR-10 and CIFAR-100 need no TensorFlow; other sets of TFDS may. Safe to interrupt and repeat.
"""

import signal
import sys
from pathlib import Path
from types import FrameType

from absl import flags

from cxv_jax.launch import command

_ARCHIVE = flags.DEFINE_string("archive", "", "Local copy of the official CIFAR archive.")
_SHA256 = flags.DEFINE_string("sha256", "", "Digest of the archive, if it is not the official one.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where to; default $TFDS_DATA_DIR or ~/tensorflow_datasets."
)


def main(arguments: list[str]) -> None:
    """Prepare the set that the one argument names."""
    from cxv_jax.data.sources import default_dir
    from cxv_jax.errors import InputError

    if len(arguments) != 1:
        raise InputError(f"expected one data set, for example cifar10, got {arguments}")
    from cxv_jax.data.prepare import prepare

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    place = Path(_DATA_DIR.value).expanduser() if _DATA_DIR.value else default_dir()
    archive = Path(_ARCHIVE.value).expanduser() if _ARCHIVE.value else None
    folder = prepare(arguments[0], place, archive=archive, sha256=_SHA256.value)
    print(f"{folder} is ready; use it with: ", end="")
    print(f"--config.data.source=tfds:{arguments[0]} --config.data.data_dir={place}")


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave by an exception, so that what is half-prepared is removed."""
    print(
        "\ninterrupted; nothing half-prepared is kept, run the same command again", file=sys.stderr
    )
    sys.exit(128 + number)


if __name__ == "__main__":
    command.run(main)
