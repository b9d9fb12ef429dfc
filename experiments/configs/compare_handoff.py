"""Is a second optimizer worth it? Nine arms, of which six fork from one AdamW run, and controls.

The first three quarters of arms A, C, D, E, F, G are one run of AdamW at a constant rate; B, S and
M are whole runs. All arms of a system and seed share split, initial weights, order of the images
and the number of images seen (F has half the epochs, for two gradients a step). ``C0`` and ``E0``
are C and E without augmentation in phase two.

Written down before the first run: the primary contrasts are E - C (does another optimizer help
beyond a falling rate?) and E - B (is it better than what everybody does?), in test top-1 of the
last weights; within ±0.3 points two arms are equal.

Variants: ``compare_handoff.py:DATA[,tune|tune2][,SYSTEM...]``, ``DATA``: ``digits`` (whole),
``cifar10`` or ``fashion_mnist`` (50 images a class; seed i trains split i of the files' order).
``tune`` has four trials of the rate for each arm that begins anew, ``tune2`` for each second phase,
once ``tune`` has chosen AdamW's (``handoff_rates.py``); both on split 0.
Command: ``python -m experiments.compare --config=experiments/configs/compare_handoff.py:digits
--workdir=docs/results/handoff/digits``; of the others with ``--config.data.data_dir=FOLDER``.
Hardware, time, accuracy: docs/results/handoff.
"""

from typing import Any

from ml_collections import ConfigDict

from cxv_jax.config import phase
from cxv_jax.errors import InputError, nearest
from experiments.configs import cifar10, compare_limited, digits
from experiments.configs.comparison import Systems, compare
from experiments.configs.handoff_rates import RATES

PRIMARY = {"beyond annealing": ("E", "C"), "against a cosine": ("E", "B")}
OTHERS = {
    "the paper's handoff": ("D", "A"),
    "annealing": ("C", "A"),
    "averaging": ("G", "A"),
    "late SAM": ("F", "C"),
    "SGD or AdamW": ("S", "B"),
    "Muon or AdamW": ("M", "B"),
    "no augmentation, AdamW": ("C0", "C"),
    "no augmentation, SGD": ("E0", "E"),
}
EQUAL = 0.3  # Percentage points.
SEEDS = tuple(range(10))
EPOCHS = {"digits": (12, 4), "cifar10": (150, 50), "fashion_mnist": (150, 50)}
TRIALS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("A", "B"), (2e-3, 1e-3, 4e-3, 8e-3)),
    "S": (3e-2, 1e-2, 1e-1, 3e-1),
    "M": (4e-3, 2e-3, 8e-3, 2e-2),
    "C": (1e-3, 5e-4, 2e-3, 4e-3),
    **dict.fromkeys(("D", "E", "F"), (1e-2, 3e-3, 3e-2, 1e-1)),
}
STAGES = {"tune": "ABSM", "tune2": "CDEF"}  # Which arms have trials.
# On digits those with BatchNorm have the ResNet's rates, those without ViT's.
FAMILY = {"digits": {"convmixer": "resnet", "cxv_nano": "resnet", "cltv": "vit"}}
LIKE = {"G": "A", "C0": "C", "E0": "E"}  # Arms with the rate of another.
SYSTEMS: Systems = {
    "resnet": compare_limited.SYSTEMS["resnet"],
    "convmixer": compare_limited.SYSTEMS["convmixer"],
    "vit": {"name": "vit", "embed_dim": 60, "depth": 4, "num_heads": 4, "head_dim": 15},
    "cltv": compare_limited.SYSTEMS["cltv"],
    "cxv_nano": compare_limited.SYSTEMS["cxv_nano"],
}
OWN: Systems = {"vit": {"mlp_dim": 136, "patch_size": 4, "dropout": 0.0}, "cltv": {"dropout": 0.0}}
# Images of 8x8 pixels.
SMALL: Systems = {
    "resnet": {"widths": (18, 36), "depths": (1, 1)},
    "convmixer": {"embed_dim": 64, "depth": 4, "patch_size": 2},
    "vit": {"embed_dim": 32, "depth": 2, "num_heads": 2, "head_dim": 16, "mlp_dim": 108}
    | {"patch_size": 2},
    "cltv": {"embed_stride": 1, "depth": 2, "embed_dim": 16, "num_heads": 2, "head_dim": 8},
}


def get_config(variant: str = "digits") -> ConfigDict:
    data, *words = variant.split(",")
    if data not in EPOCHS:
        raise InputError(f"unknown data set {data!r}{nearest(data, list(EPOCHS))}")
    stage = next((word for word in words if word in STAGES), "")
    family = FAMILY.get(data, {}) if stage else {}
    only = [word for word in words if word != stage] or [s for s in SYSTEMS if s not in family]
    small = SMALL if data == "digits" else {}
    systems = {k: SYSTEMS[k] | OWN.get(k, {}) | small.get(k, {}) for k in SYSTEMS}
    config = compare(recipe(data, bool(stage)), systems, ",".join(only))
    config.seeds = (0,) if stage else SEEDS
    made = arms(data, only)
    config.arms = ConfigDict(trials(made, STAGES[stage], data, only) if stage else made)
    config.contrasts = ConfigDict({} if stage else PRIMARY | OTHERS)
    config.primary = () if stage else tuple(PRIMARY)
    config.equivalence = EQUAL
    return config


def recipe(data: str, tune: bool) -> ConfigDict:
    """What all arms share: the first phase is AdamW at a constant rate."""
    if data == "digits":
        config = digits.get_config()
        config.ema_decay = 0.0
    else:
        config = cifar10.get_config("cxv_nano,small")
        config.data.update(splits="gem", subset_per_class=50, val_fraction=0.0)
        config.data.val_per_class = 20 if tune else 0
        if data == "fashion_mnist":
            config.data.update(compare_limited.FASHION)
        config.phase1.update(light_share=0.0, clip_norm=0.0)
    first, second = EPOCHS[data]
    long = {"patience": first + second}  # Phases run to their ends.
    config.phase1.update(epochs=first, schedule="constant", warmup_epochs=1, **long)
    config.phase2.update(epochs=second, learning_rate=config.phase1.learning_rate, **long)
    config.phase2.augment.update(config.phase1.augment)
    config.phase2.label_smoothing = config.phase1.label_smoothing
    config.handed = "last"
    # Without validation images nothing can be selected; trials are judged by their last weights.
    config.selection = "val" if data == "digits" and not tune else "last"
    return config


def arms(data: str, systems: list[str]) -> dict[str, Any]:
    """The fields of each arm, and in ``training`` each system's rates."""
    one, two = recipe(data, False).phase1.to_dict(), recipe(data, False).phase2.to_dict()
    first, second = EPOCHS[data]
    adamw = {"optimizer": "adamw", "options": one["options"]}
    adamw["decay_kernels_only"] = one["decay_kernels_only"]
    falling = {"schedule": "linear"}
    bare = {"augment": phase("sgd", 0).augment.to_dict()}
    on = {**adamw, "schedule": "constant", "fresh_state": False}
    half = {"epochs": second // 2, "patience": two["patience"]}
    whole = {"epochs": first + second, "schedule": "cosine"}
    seconds: dict[str, dict[str, Any]] = {
        "A": on,
        "C": {**adamw, **falling},
        "D": {},
        "E": falling,
        "F": {"optimizer": "sam", **falling, **half},
        "G": {**on, "average_epochs": second},
    }
    seconds |= {"C0": seconds["C"] | bare, "E0": seconds["E"] | bare}
    alone: dict[str, dict[str, Any]] = {
        "B": whole,
        "S": {**whole, "optimizer": "sgd", "options": {"momentum": 0.9}}
        | {"decay_kernels_only": False},  # SGD has no weight decay, in no arm.
        "M": {**whole, "optimizer": "muon"},
    }
    made: dict[str, Any] = {label: {"phase2": fields} for label, fields in seconds.items()}
    made |= {x: {"phase1": fields, "phase2": {"epochs": 0}} for x, fields in alone.items()}
    for label in made:
        made[label]["training"] = {s: rates(data, s, label) for s in systems}
    return {label: made[label] for label in sorted(made)}


def trials(made: dict[str, Any], which: str, data: str, systems: list[str]) -> dict[str, Any]:
    """``ARM_N`` for the N-th trial of each arm that is to be tuned."""
    return {
        f"{arm}_{n}": {**made[arm], "training": {s: rates(data, s, arm, rate) for s in systems}}
        for arm in which
        for n, rate in enumerate(TRIALS[arm], 1)
    }


def rates(data: str, system: str, arm: str, rate: float | None = None) -> dict[str, Any]:
    """The learning rates of an arm: ``rate``, else the chosen one, else the first trial."""
    system, like = FAMILY.get(data, {}).get(system, system), LIKE.get(arm, arm)
    chosen = RATES.get(data, {}).get(system, {})
    rate = rate or chosen.get(like, TRIALS[like][0])
    if like in "BSM":
        return {"phase1": {"learning_rate": rate}}
    prefix = rate if like == "A" else chosen.get("A", TRIALS["A"][0])
    return {"phase1": {"learning_rate": prefix}, "phase2": {"learning_rate": rate}}
