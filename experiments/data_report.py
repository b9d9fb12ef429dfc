"""What training will see of its data, in words and as a picture; for ``inspect_data``."""

import inspect
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cxv_jax import augment, plots, sharding
from cxv_jax.config import check_config
from cxv_jax.data.duplicates import Place, equal_images
from cxv_jax.data.loader import Loader, make_loader
from cxv_jax.data.resident import ResidentLoader
from cxv_jax.data.sources import Dataset
from cxv_jax.data.splits import class_counts
from cxv_jax.data.statistics import pixel_statistics
from cxv_jax.machine import device_memory
from cxv_jax.parts import load_dataset
from cxv_jax.text import printable

ROWS, COLUMNS = 8, 6  # Of the contact sheet: classes, and images of each.
MOST_CLASSES = 20  # Of more, the report shows the spread and the classes far from it,
MOST_OUTLIERS = 10  # at most so many.
MOST_EQUAL = 3  # So many duplicates are named.
LEAST_STD = 1e-4  # Less prints as 0; dividing by it would make noise of nothing.
TOLERANCE = 0.02  # Between the pixels and config.data.mean and std, in 0..1.


def open_dataset(config: ConfigDict) -> Dataset:
    """The data set that ``config`` names.

    Raises:
      InputError: for what training would refuse: bad fields, files, splits and augmentations.
    """
    check_config(config)
    for name in _phases(config):
        augment.make(**config[name].augment)
    dataset = load_dataset(config)
    for name in ("train", *({config.selection} - {"last"}), "test"):
        dataset.split(name)
    return dataset


def counts(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Images per class and split; of many classes the spread, and those far from it."""
    number = {
        name: np.array(list(class_counts(split.labels, dataset.num_classes).values()))
        for name, split in dataset.splits.items()
    }
    rows = {"all classes": [n.sum() for n in number.values()]}
    listed, more = list(range(dataset.num_classes)), 0
    if dataset.num_classes > MOST_CLASSES:
        for name, of in (("least", np.min), ("median", np.median), ("most", np.max)):
            rows[f"{name} of a class"] = [of(n) for n in number.values()]
        outliers = _outliers(list(number.values()))
        listed, more = outliers[:MOST_OUTLIERS], len(outliers[MOST_OUTLIERS:])
    rows |= {dataset.class_names[c]: [n[c] for n in number.values()] for c in listed}
    height, width, _ = dataset.image_shape
    head = f"{dataset.name}: {dataset.num_classes} classes, {height}x{width} RGB"
    tail = [f"and {more} more classes below half or above twice the median"] if more else []
    return [head, *_table(list(number), rows, "{:,.0f}"), *tail]


def pixels(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Mean and deviation of every channel of train against the config's."""
    found = pixel_statistics(dataset.split("train").images)._asdict()
    rows: dict[str, np.ndarray] = {}
    warnings = []
    for name, values in found.items():
        wanted = np.array(config.data[name])
        rows |= {f"{name} of train": values, f"config.data.{name}": wanted}
        if name == "std" and values.min() < LEAST_STD:
            warnings.append("warning: a channel of train is constant; check the pixels")
        elif np.abs(values - wanted).max() > TOLERANCE:
            better = ",".join(f"{v:.4f}" for v in values)
            warnings.append(
                f"warning: config.data.{name} is more than {TOLERANCE} from the pixels; "
                f"set --config.data.{name}='({better})'"
            )
    return [*_table(["red", "green", "blue"], rows, "{:.4f}"), *warnings]


def loading(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Memory that the images take, the loader that follows, batches an epoch."""
    size, allowed = int(np.prod(dataset.image_shape)), device_memory() * config.data.memory_share
    taken = ", ".join(f"{n} {len(s) * size / 1e6:,.1f} MB" for n, s in dataset.splits.items())
    loader = automatic = _loader(config, dataset, "auto")
    if config.data.loader != "auto":
        loader = _loader(config, dataset, config.data.loader)
    steps, number = loader.steps_per_epoch, len(dataset.split("train"))
    return [
        f"memory   {taken}; resident below {allowed / 1e6:,.0f} MB a device "
        f"(config.data.memory_share={config.data.memory_share:g})",
        f"loader   {_kind(loader)}"
        + ("" if loader is automatic else f"; auto: {_kind(automatic)}"),
        f"batches  {steps:,} of {config.batch_size} an epoch, "
        f"{number - steps * config.batch_size} of {number:,} images left out, others every time",
    ]


def phases(config: ConfigDict, dataset: Dataset) -> list[str]:
    """What each phase does to the images."""
    return [f"{_title(config, name)}: {_settings(config[name])}" for name in _phases(config)]


def duplicates(config: ConfigDict, dataset: Dataset) -> list[str]:
    """Images that stand twice, pixel for pixel: in two splits, in two classes, or only that."""
    groups = equal_images(dataset)
    across = [group for group in groups if len({place.split for place in group}) > 1]
    torn = [group for group in groups if len({place.label for place in group}) > 1]
    kinds = {
        "stand in two splits, which flatters the figures of the held-out one": across,
        "stand in two classes, of which at most one is right": torn,
        "stand twice in all": groups,
    }
    lines = [f"warning: {len(g):,} images {what}: {_some(g)}" for what, g in kinds.items() if g]
    return lines or ["duplicates  none, pixel for pixel"]


SECTIONS = (counts, pixels, duplicates, loading, phases)


def write_sheet(config: ConfigDict, dataset: Dataset, path: Path) -> None:
    """Draw some training images of some classes as stored and as each phase sees them."""
    labels = dataset.split("train").labels
    classes = np.unique(labels)
    classes = classes[np.linspace(0, len(classes) - 1, min(ROWS, len(classes))).round().astype(int)]
    index = np.stack([np.resize(np.flatnonzero(labels == c)[:COLUMNS], COLUMNS) for c in classes])
    stored = dataset.split("train").images[index.reshape(-1)]
    stored = stored.reshape(*index.shape, *dataset.image_shape)
    blocks = {"as stored": stored}
    for name in _phases(config):
        images, own = _augmented(config, name, stored)
        kept = "" if own.min() == 1 else f"\nown label {', '.join(f'{x:.0%}' for x in own)}"
        blocks[_title(config, name) + kept] = images
    plots.contact_sheet(blocks, [dataset.class_names[c] for c in classes], path)


def _augmented(config: ConfigDict, name: str, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[row, column, ...] with every column augmented as one batch, and its labels' own share."""
    change = jax.jit(augment.make(**config[name].augment))
    targets = jnp.eye(len(stored))  # Every row is a class.
    rngs = jax.random.split(jax.random.key(config.seed), stored.shape[1])
    columns = [change(rng, stored[:, i], targets) for i, rng in enumerate(rngs)]
    images, mixed = (np.stack(part, axis=1) for part in zip(*jax.device_get(columns), strict=True))
    return images.round().astype(np.uint8), mixed[0, :, 0]  # Mixing has one share a batch.


def _some(groups: Sequence[Sequence[Place]]) -> str:
    """The names of a few equal images."""
    named = (" = ".join(place.name for place in group[:MOST_EQUAL]) for group in groups)
    more = ", ..." if len(groups) > MOST_EQUAL else ""
    return printable(", ".join(itertools.islice(named, MOST_EQUAL)) + more)


def _outliers(number: Sequence[np.ndarray]) -> list[int]:
    """Classes with less than half or more than twice the median of a split."""
    far = [(n < np.median(n) / 2) | (n > np.median(n) * 2) for n in number]
    return np.flatnonzero(np.any(far, axis=0)).tolist()


def _loader(config: ConfigDict, dataset: Dataset, kind: str) -> Loader:
    """Training's own choice, made by its own function."""
    return make_loader(
        dataset.split("train"),
        batch_size=config.batch_size,
        seed=config.seed,
        batch_sharding=sharding.batch_sharding(sharding.create_mesh(config.fsdp)),
        train=True,
        kind=kind,
        memory_share=config.data.memory_share,
    )


def _kind(loader: Loader) -> str:
    return "resident" if isinstance(loader, ResidentLoader) else "streaming"


def _phases(config: ConfigDict) -> list[str]:
    return [name for name in ("phase1", "phase2") if config[name].epochs]


def _title(config: ConfigDict, name: str) -> str:
    return f"{name} ({config[name].optimizer})"


def _settings(phase: ConfigDict) -> str:
    """The augmentations that are on."""
    defaults = inspect.signature(augment.make).parameters
    on = {k: v for k, v in phase.augment.items() if v != defaults[k].default}
    return ", ".join(f"{k}={v}" for k, v in on.items()) or "images as they are stored"


def _table(columns: Sequence[str], rows: Mapping[str, Any], form: str) -> list[str]:
    """Lines with aligned columns."""
    cells = {name: [form.format(value) for value in values] for name, values in rows.items()}
    first = max(map(len, cells))
    width = max(len(cell) for row in [columns, *cells.values()] for cell in row) + 2
    lines = {"": columns, **cells}
    return [f"{k:<{first}}" + "".join(f"{c:>{width}}" for c in row) for k, row in lines.items()]
