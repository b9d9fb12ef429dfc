"""A config for anybody's pictures, chosen from what they are: ``experiments.train --data=PATH``."""

import contextlib
import functools
import io
import math
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cxv_jax.errors import InputError

CONFIG = Path(__file__).parent / "configs" / "own.py"
FEW = 3000  # Training images: fewer get the recipe small.
VERY_FEW = 1000  # Fewer get the smallest model.
SIDE = 64  # Pixels that are enough for most classes, and that a CPU can bear.
UNBALANCED = 3  # So many times the images of the smallest class: the classes are weighed.
STEPS = {"small": 4_000, "strong": 20_000}  # Of the first phase, within these epochs:
EPOCHS = (30, 200)


class Look(NamedTuple):
    """What is seen of the pictures before anything is chosen.

    Attributes:
      source: as ``config.data.source`` has it.
      layout: how they lie there, in words.
      pictures: training images, before validation is held out of them.
      counts: training images of each class, without validation.
      side: pixels of the shorter side, the median over the pictures.
      image_size: what ``config.data.image_size`` is to be; 0: as they are.
      recipe: see ``experiments/configs/recipes.py``.
      mean: of the training pixels, a channel, in 0..1.
      std: their deviation.
      small_classes: ``train`` where a class is too small to hold anything out of it.
    """

    source: str
    layout: str
    pictures: int
    counts: tuple[int, ...]
    side: int
    image_size: int
    recipe: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    small_classes: str = "split"

    @property
    def number(self) -> int:
        """Training images."""
        return sum(self.counts)

    @property
    def ratio(self) -> float:
        """Images of the largest class for one of the smallest."""
        return max(self.counts) / min(self.counts)


def with_config(argv: list[str]) -> list[str]:
    """The command line with the ``--config`` that ``--data``, ``--model``, ``--recipe`` stand for.

    Example:
      >>> with_config(["train", "--data=cells", "--model=cpv"])[1].endswith("own.py:cpv,,cells")
      True
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--data", "--model", "--recipe"):
        parser.add_argument(name, nargs="?", default="")
    found, rest = parser.parse_known_args(argv[1:])
    if not found.data or any(arg.lstrip("-").startswith("config=") for arg in rest):
        return argv
    config = f"--config={CONFIG}:{found.model or ''},{found.recipe or ''},{found.data}"
    return [argv[0], config, *argv[1:]]  # Before its overrides: they are flags once it is read.


@functools.cache
def look(data: str, recipe: str = "") -> Look:
    """Look at the pictures in a folder, in a table of files, or in an npz file.

    Raises:
      InputError: there are none, or they cannot be used.
    """
    from cxv_jax.data.sources import opened, untold
    from cxv_jax.data.splits import complete
    from cxv_jax.data.statistics import pixel_statistics

    source = source_of(data)
    with untold():  # Training reads the pictures again, and tells what is odd about them.
        if not source.startswith("npz:"):
            layout, side = _layout(source), median_side(_files(source))
            size = min(side, SIDE)
        else:
            layout = "an npz file"
            side = min(opened(source, "", 0, "skip")[1]["train"].image_shape[:2])
            size = 0 if side <= SIDE else SIDE
        # What can be read; training refuses the rest, or skips it where the user says so.
        class_names, parts = opened(source, "", size, "skip")
        cut = functools.partial(
            complete, source, class_names, parts, seed=0, val_per_class=0, subset_per_class=0
        )
        try:
            small_classes, dataset = "split", cut(val_fraction=0.0)
        except InputError:  # Perhaps a class of one picture; if not, it is said again.
            small_classes, dataset = "train", cut(val_fraction=0.0, small_classes="train")
        pictures = len(dataset.split("train"))
        recipe = recipe or recipe_for(pictures)
        if recipe != "small":
            dataset = cut(val_fraction=0.1, small_classes=small_classes)
    train = dataset.split("train")
    counts = np.bincount(train.labels, minlength=dataset.num_classes).tolist()
    mean, std = (tuple(np.round(x, 4).tolist()) for x in pixel_statistics(train.images))
    if min(std) == 0:
        raise InputError(f"{data}: all pixels of a channel have one value; nothing can be learnt")
    return Look(
        source, layout, pictures, tuple(counts), side, size, recipe, mean, std, small_classes
    )


def choose(look: Look, model: str = "") -> ConfigDict:
    """The config of a run on these pictures; ``model`` in place of the one they call for."""
    from experiments.configs.recipes import build

    config = build(
        f"{model or model_for(look.pictures)},{look.recipe}", look.source, look.mean, look.std
    )
    config.data.image_size, config.data.small_classes = look.image_size, look.small_classes
    if look.recipe == "small":  # Selects nothing: validation is read once, where there is one.
        config.data.val_fraction = 0.0
    fit_schedule(config, look.number, look.recipe)
    if look.ratio > UNBALANCED:
        config.class_weights, config.select_by = "balanced", "balanced_accuracy"
    return config


def fit_schedule(config: ConfigDict, number: int, recipe: str) -> None:
    """Batch and epochs for so many training images; the recipe paper ends by patience instead.

    A batch is about a tenth of them, a power of two from 16 to 64 (strong: 128).
    """
    most = 64 if recipe == "small" else 128
    batch = min(max(2 ** round(math.log2(max(number / 10, 1))), 16), most)
    config.batch_size = min(batch, 2 ** int(math.log2(number)))
    if recipe not in STEPS:
        return
    least, longest = EPOCHS
    epochs = round(STEPS[recipe] * config.batch_size / number)
    epochs = min(max(epochs, least), longest)
    config.phase1.update(epochs=epochs, patience=epochs)
    config.phase1.warmup_epochs = min(5, epochs // 10)
    if config.phase2.epochs:
        config.phase2.epochs = epochs // 2


def told(look: Look, config: ConfigDict) -> list[str]:
    """What is done and why in five lines; what the user has set otherwise is marked as his."""
    chosen = choose(look, config.model.name)

    def say(field: str) -> str:
        ours, value = _field(chosen, field), _field(config, field)
        return f"{value}" if ours == value else f"{value} (set by you)"

    size = f"{say('data.image_size')} pixels a side" if config.data.image_size else "as they are"
    limit = f", of which {SIDE} are enough" if look.side > SIDE else ""
    moments = ("/".join(f"{x:.3f}" for x in config.data[name]) for name in ("mean", "std"))
    model = _why(config.model.name, model_for(look.pictures), look.pictures, VERY_FEW)
    recipe = _why(look.recipe, recipe_for(look.pictures), look.pictures, FEW)
    return [
        f"data: {look.source}, {look.layout}, {look.pictures:,} pictures to train on in "
        f"{len(look.counts)} classes ({min(look.counts):,} to {max(look.counts):,} each)",
        f"images: {size}: their shorter side has {look.side} pixels (median){limit}; mean and "
        f"deviation of the training images {' and '.join(moments)}",
        f"model: {config.model.name}{model}; --model=NAME takes another",
        f"training: recipe {look.recipe}{recipe}, batches of {say('batch_size')}, "
        f"{say('phase1.epochs')} + {say('phase2.epochs')} epochs, selection {say('selection')}; "
        "--recipe=NAME takes another",
        f"classes: weights {say('class_weights')}: the largest has {look.ratio:.3g} times the "
        f"images of the smallest (balanced above {UNBALANCED}); --config.FIELD=VALUE sets others",
    ]


def model_for(number: int) -> str:
    """The model for so many training images."""
    return "cxv_nano" if number < VERY_FEW else "cxv_small"


def recipe_for(number: int) -> str:
    """The recipe for so many training images."""
    return "small" if number < FEW else "strong"


def _why(taken: str, ours: str, number: int, limit: int) -> str:
    if taken != ours:
        return " (set by you)"
    return f", as there are {'fewer than' if number < limit else 'at least'} {limit:,}"


def source_of(data: str) -> str:
    """``folder:PATH``, ``csv:FILE`` or ``npz:FILE`` for a path; ``hf:NAME`` as it is.

    Raises:
      InputError: it is none of them.
    """
    if data.startswith("hf:"):
        return data
    name = re.sub("^(folder|csv|npz):", "", data)
    path = Path(name).expanduser()
    if path.is_dir():
        return f"folder:{name}"
    if path.is_file() and path.suffix.lower() in (".npz", ".csv"):
        return f"{path.suffix.lower()[1:]}:{name}"
    raise InputError(
        f"data={data}: expected a folder of pictures (CLASS/*.jpg, or train/CLASS/*.jpg), a "
        "csv file (path,label), an npz file or hf:NAME; sets with a name have configs: "
        "--config=experiments/configs/cifar10.py"
    )


def median_side(files: Sequence[Path | bytes], most: int = 200) -> int:
    """Pixels of the shorter side of pictures, the median of up to ``most``."""
    from PIL import Image

    from cxv_jax.data.images import READERS

    sides = []
    for i in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int):
        with contextlib.suppress(Exception):
            file = io.BytesIO(x) if isinstance(x := files[i], bytes) else x
            with Image.open(file, "r", READERS) as image:
                sides.append(min(image.size))
    return max(int(np.median(sides)), 8) if sides else SIDE  # Without any, reading says why.


def _files(source: str) -> Sequence[Path | bytes]:
    from cxv_jax.data import csv_table, folder, hugging_face

    kind, _, name = source.partition(":")
    if kind == "hf":
        return hugging_face.pictures(name)
    if (path := Path(name).expanduser()).is_file():
        return [path.parent / row.name for row in csv_table.rows(path)]
    return [file for file in folder.pictures(path) if file.is_file()]


def _layout(source: str) -> str:
    from cxv_jax.data.folder import split_folders

    kind, _, name = source.partition(":")
    if kind == "hf":
        return "a set that the library datasets reads"
    if (path := Path(name).expanduser()).is_file():
        return "a table of files"
    found = sorted(split_folders(path))
    return f"split folders {', '.join(found)}" if found else "class folders"


def _field(config: ConfigDict, field: str) -> Any:
    return functools.reduce(lambda node, name: node[name], field.split("."), config)
