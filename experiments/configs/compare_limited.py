"""Few images a class: CXV as a pyramid and as published, beside four others.

Systems of 0.14 M parameters (within 3 %), each with the learning rate that was best for it; one is
``cxv_nano`` without attention, its parameters spent on width.
The splits are those of limited-data benchmarks (``data.splits="gem"``): seed ``i`` trains split
``i``, on all of its images; test is read once, with the last weights. The rates are chosen on split
0 alone: 60 % of its images train, 40 % validate, the same ``TRIALS`` for every system.
Fashion-MNIST takes CIFAR-10's rates.

Variants: ``compare_limited.py:IMAGES[,fashion_mnist][,tune][,SYSTEM...]``, ``IMAGES`` a class: 10,
50, 100 or 500, of CIFAR-10 if not of Fashion-MNIST.
Command: ``python -m experiments.compare --config=experiments/configs/compare_limited.py:50
--config.data.data_dir=FOLDER --workdir=docs/results/limited_data/50`` with CIFAR-10 in FOLDER.
Hardware, time, accuracy: docs/results/limited_data.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from cxv_jax.errors import InputError, nearest
from experiments.configs import cifar10
from experiments.configs.comparison import Systems, compare

SYSTEMS: Systems = {
    "cxv_nano": {"name": "cxv_nano"},
    "no_attention": {"name": "cxv_nano", "mixer": "none", "embed_dims": (38, 76)},  # The control.
    "cltv": {"name": "cltv", "embed_stride": 2, "depth": 3, "embed_dim": 36, "head_dim": 6},
    "resnet": {"name": "resnet18", "widths": (22, 44, 86), "depths": (1, 1, 1)},
    "convmixer": {"name": "convmixer", "embed_dim": 116, "patch_size": 4},
    "cct": {"name": "cct_4_3x2", "embed_dim": 68, "conv_dim": 32},
}
NO_DROPOUT: dict[str, Any] = {
    "cltv": {"dropout": 0.0},
    "cct": {"attention_dropout": 0.0, "drop_path": 0.0},
}
FASHION: dict[str, Any] = {
    "source": "fashion_mnist",
    "mean": (0.286,) * 3,
    "std": (0.353,) * 3,
}
EPOCHS = {10: 200, 50: 100, 100: 60, 500: 20}
Trial = tuple[float, int]  # Learning rate, batch size.
TRIALS: dict[int, tuple[Trial, ...]] = {
    50: ((2e-3, 50), (5e-3, 50), (1e-2, 50), (1e-3, 25), (2e-3, 25)),
    500: ((1e-3, 25), (2e-3, 25)),
}
# The best trial by validation on split 0, see docs/results/limited_data/IMAGES-tune.
CHOSEN: dict[int, dict[str, Trial]] = {
    50: {
        **dict.fromkeys(("cltv", "convmixer"), (2e-3, 50)),
        **{"cct": (5e-3, 50), "cxv_nano": (1e-3, 25), "resnet": (2e-3, 25)},
    },
    500: {"cxv_nano": (2e-3, 25), "resnet": (1e-3, 25)},
}


def get_config(variant: str = "50") -> ConfigDict:
    images, *words = variant.split(",")
    count, tune, fashion = number(images, EPOCHS), "tune" in words, FASHION["source"] in words
    only = [word for word in words if word not in ("tune", FASHION["source"])] or list(SYSTEMS)
    systems, training = {}, {}
    for name in only:
        chosen = CHOSEN.get(count, {}).get(name, (2e-3, min(25, count)))  # If it was not tuned.
        for rate, batch in TRIALS.get(count, TRIALS[50]) if tune else (chosen,):
            label = (
                f"{name}_{round(1e3 * rate)}e-3" + f"_of_{batch}" * (batch != 50) if tune else name
            )
            systems[label] = SYSTEMS.get(name, {}) | NO_DROPOUT.get(name, {})
            training[label] = {"phase1": {"learning_rate": rate}, "batch_size": batch}
    config = compare(recipe(count, tune), systems)
    if fashion:
        config.data.update(FASHION)
    config.training = ConfigDict(training)
    config.handoff, config.seeds = "without", (0,) if tune else (0, 1, 2)
    return config


def number(images: str, known: Iterable[int]) -> int:
    """How many images a class a variant names, which must be one of ``known``."""
    if images not in (words := [str(n) for n in known]):
        raise InputError(f"unknown number of images {images!r}{nearest(images, words)}")
    return int(images)


def recipe(images: int, tune: bool) -> ConfigDict:
    """``small``, at a length for a CPU."""
    config = cifar10.get_config("cxv_nano,small")
    config.data.update(splits="gem", subset_per_class=images, val_fraction=0.0)
    config.data.val_per_class = images * 2 // 5 if tune else 0
    config.batch_size = min(50, images)
    epochs = EPOCHS[images]
    config.phase1.update(epochs=epochs, warmup_epochs=epochs // 20)
    return config
