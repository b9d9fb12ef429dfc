"""Turn PyTorch weights of the published code into a run that evaluate and predict accept.

python -m experiments.import_torch weights.npz --model=cpv --out=runs/imported
python -m experiments.import_torch weights.pth --model=cnv --out=runs/imported --data=cifar10 \
  --mean=0.4914,0.4822,0.4465 --std=0.2470,0.2435,0.2616

Reads .npz, .safetensors and (with torch installed) .pt and .pth. The sizes of cpv, cnv and cltv are
read off the weights; what leaves no trace there, and those of other models, is told with --set.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from cxv_jax.launch import command

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from cxv_jax.records import DataRecord

CXV = ("cpv", "cnv", "cltv")

_MODEL = flags.DEFINE_string("model", None, "Name of the model: cpv, cnv, cltv, ...")
_OUT = flags.DEFINE_string("out", None, "Folder to make; must not exist, or be empty.")
_DATA = flags.DEFINE_string("data", "", "Source that the model was trained on, e.g. cifar10.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where the files of --data are.")
_CLASS_NAMES = flags.DEFINE_list("class_names", [], "Names of the classes, if not those of --data.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 0, "Pixels a side; default that of --data, else 32.", lower_bound=0
)
_MEAN = flags.DEFINE_list("mean", ["0.5"] * 3, "Mean of the pixels by channel, in 0..1.")
_STD = flags.DEFINE_list("std", ["0.5"] * 3, "Deviation of the pixels by channel, in 0..1.")
_SET = flags.DEFINE_multi_string("set", [], "A field of the model, e.g. --set=embed_stride=2.")


def main(argv: list[str]) -> None:
    """Import the weight file in ``argv``."""
    if len(argv) != 1 or not _MODEL.value or not _OUT.value:
        command.fail("expected one weight file, --model=NAME and --out=FOLDER; see --help")
    from cxv_jax import models, torch_import  # Late: --help must not wait for JAX.
    from cxv_jax.errors import InputError

    out = Path(_OUT.value)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out={out} exists and is not an empty folder: name a new one")
    state_dict = torch_import.load_state_dict(argv[0])
    sizes = torch_import.cxv_sizes(state_dict) if _MODEL.value in CXV else {}
    sizes |= fields(_SET.value)
    num_classes = sizes.pop("num_classes", 0)
    config = make_config({"name": _MODEL.value, **sizes})
    dataset = describe(config, num_classes)
    model = models.create(num_classes=len(dataset.class_names), **config.model)
    variables = torch_import.from_torch(model, state_dict)
    write(out, config, dataset, variables)
    print(f"imported {argv[0]} as {_MODEL.value} with {len(dataset.class_names)} classes: {out}")


def fields(settings: list[str]) -> dict[str, Any]:
    """``["depth=2", "dtype=bfloat16"]`` as a dictionary; values are JSON or else strings."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            command.fail(f"expected --set=FIELD=VALUE, got {setting!r}")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def make_config(model: dict[str, Any]) -> "ConfigDict":
    """What the config of a run says of its model and its data; nothing of training."""
    from ml_collections import ConfigDict

    from cxv_jax.config import base

    config = base(model["name"], _DATA.value)
    config.data.update(
        data_dir=_DATA_DIR.value,
        image_size=_IMAGE_SIZE.value,
        mean=channels("mean", _MEAN.value),
        std=channels("std", _STD.value),
    )
    kept = {name: config[name] for name in ("seed", "data", "eval_batch_size", "ema_decay")}
    return ConfigDict({**kept, "model": model})


def channels(name: str, values: list[str]) -> tuple[float, ...]:
    """Three numbers in 0..1."""
    try:
        numbers = tuple(map(float, values))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(0 <= x <= 1 and (x or name == "mean") for x in numbers):
        command.fail(
            f"expected three numbers in 0..1 (no zero in --std), got --{name}={','.join(values)}"
        )
    return numbers


def describe(config: "ConfigDict", num_classes: int) -> "DataRecord":
    """What the checkpoint says of the data; ``named`` is false for made-up class names."""
    from cxv_jax.errors import InputError
    from cxv_jax.parts import load_dataset
    from cxv_jax.records import DataRecord

    size = _IMAGE_SIZE.value or 32
    names, name, shape = tuple(_CLASS_NAMES.value), "", (size, size, 3)
    if config.data.source:
        dataset = load_dataset(config)
        names, name, shape = names or dataset.class_names, dataset.name, dataset.image_shape
    if num_classes and names and len(names) != num_classes:
        raise InputError(f"there are {len(names)} class names, the weights have {num_classes}")
    made_up = tuple(f"class {i}" for i in range(num_classes))
    if not names and not made_up:
        raise InputError(f"--model={_MODEL.value} needs --class_names or --data")
    return DataRecord(names or made_up, shape, name, named=bool(names))


def write(
    out: Path, config: "ConfigDict", dataset: "DataRecord", variables: dict[str, Any]
) -> None:
    """Make the run's folder, whole or not at all."""
    import numpy as np

    from cxv_jax.checkpoint import Checkpointer
    from cxv_jax.records import Meta
    from cxv_jax.state import TrainState

    weights = {name: variables.get(name, {}) for name in ("params", "batch_stats", "constants")}
    state = TrainState(step=np.int32(0), **weights, opt_state=(), ema=None)
    meta = Meta(config.to_dict(), dataset)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with Checkpointer(temporary / "checkpoints") as checkpointer:
            checkpointer.save(0, state, meta.to_json())
        (temporary / "config.json").write_text(config.to_json(indent=2, sort_keys=True) + "\n")
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    command.run(main)
