"""What a config may hold: every field, checked before any work, compared before a run goes on."""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cxv_jax import models
from cxv_jax.errors import InputError, nearest
from cxv_jax.phase import Phase

AT_LEAST_ONE = ("batch_size", "eval_batch_size", "fsdp", "phase1.patience", "phase2.patience")
AT_LEAST_ZERO = (
    *("phase1.epochs", "phase2.epochs", "steps_per_call", "redraw_every"),
    *("phase1.average_epochs", "phase2.average_epochs"),
    *("micro_batch", "memory_gb", "data.split_index", "phase1.clip_norm", "phase2.clip_norm"),
)
POSITIVE = ("phase1.learning_rate", "phase2.learning_rate")
SELECTIONS = ("val", "test", "last")
HANDED = ("best", "last")
ORDERS = ("shuffled", "balanced")
SELECT_BY = ("top1", "balanced_accuracy", "macro_f1")
FEW_STEPS = 20  # With fewer an optimizer has not got anywhere.
SHARES = (  # In [0, 1).
    *("phase1.label_smoothing", "phase2.label_smoothing", "ema_decay"),
    *("phase1.light_share", "phase2.light_share", "phase1.floor", "phase2.floor"),
)


def base(model: str, source: str) -> ConfigDict:
    """A run of ``model`` on ``source`` with the paper's method: AdamW, then SGD."""
    config = ConfigDict()
    config.seed = 0  # Of everything random: weights, splits, order, augmentation.
    config.model = ConfigDict({"name": model, **models.defaults(model)})
    config.data = ConfigDict(
        {
            "source": source,  # See cxv_jax.data.sources.
            "data_dir": "",  # Where its files are; empty: TFDS's folder.
            "image_size": 0,  # 0: as the source has it.
            "val_fraction": 0.1,  # Held out of train for patience and selection.
            "val_per_class": 0,  # Wins over val_fraction.
            "subset_per_class": 0,  # Keep so many training images of each class; 0: all.
            # Or "folds": every image is in test once; "gem": subset, validation by files' order.
            "splits": "random",
            "split_index": 0,  # Which of the "folds" or "gem" splits.
            "folds": 5,  # How many "folds" there are.
            "on_bad_image": "refuse",  # Or "skip".
            "classes": (),  # Names of those to keep; none: all.
            "small_classes": "split",  # Or "train": nothing is held out of fewer than 5 images.
            "mean": (0.5, 0.5, 0.5),  # Of each channel in 0..1, subtracted.
            "std": (0.5, 0.5, 0.5),  # Their deviation, divided by.
            # Or "balanced": every class equally often in an epoch, images of rare ones repeatedly.
            "order": "shuffled",
            "loader": "auto",  # Or "resident" (in accelerator memory), "streaming" (Grain).
            "memory_share": 0.4,  # Of the device's memory that a resident set may take.
            "workers": 0,  # Processes of Grain that read images; 0: threads of this one.
        }
    )
    config.init_from = ""  # A run's folder or a file of weights to begin with; see warm_start.py.
    config.batch_size = 64  # Images of one update, over all devices.
    config.eval_batch_size = 256  # Images of one call in evaluation and prediction.
    config.micro_batch = 0  # Images of one forward and backward pass; 0: the whole batch.
    config.memory_gb = 0.0  # Of the device: chooses micro_batch and remat to fit; 0: as they are.
    config.phase1 = phase("adamw", 100, weight_decay=0.01)  # The first optimizer.
    config.phase2 = phase("sgd", 100, momentum=0.9)  # The second, from the best weights.
    config.phase2.keep = ""  # Parameters (a pattern) that stay on phase one's optimizer.
    config.phase2.fresh_state = True  # False: phase one's optimizer goes on with its state.
    config.handed = "best"  # The weights that phase two begins with; or "last", phase one's last.
    # "test" reproduces the paper's protocol; reports say so. "last" takes the last weights: every
    # phase runs to its end, and nothing is evaluated before.
    config.selection = "val"
    config.select_by = "top1"  # Or "balanced_accuracy", "macro_f1", for unbalanced classes.
    # Of the training loss. Or "balanced": rare classes weigh in all like common ones; or a number
    # for each class, in the order of their names: "1,1,2.5".
    config.class_weights = "none"
    config.ema_decay = 0.0  # Of a moving average of the weights, which is then evaluated.
    config.redraw_every = 0  # Steps between new Performer projections.
    config.steps_per_call = 0  # Steps in one dispatch; 0: 1 on CPU, 16 elsewhere.
    config.track = ""  # Or "wandb", "mlflow": figures go there too; needs that package.
    config.fsdp = 1  # Devices over which parameters and optimizer state are split.
    return config


def phase(optimizer: str, epochs: int, **options: float) -> ConfigDict:
    """One phase: an optimizer, its schedule, when it ends, and what the images go through."""
    return ConfigDict(
        {
            "optimizer": optimizer,  # Any optax optimizer; adamw and sgd with PyTorch's defaults.
            "options": options,  # For the optimizer, e.g. weight_decay or momentum.
            "decay_kernels_only": False,  # True: no weight decay on biases and norms.
            "learning_rate": 1e-3,  # The highest of the schedule.
            "schedule": "constant",  # Or "cosine", "linear", over `epochs`.
            "floor": 0.0,  # Where those end, as a share of the rate.
            "warmup_epochs": 0,  # Linear, from near 0; at most half the phase.
            "epochs": epochs,  # At most; 0 leaves the phase out.
            "patience": 20,  # Epochs without improvement that end the phase.
            "frozen": "",  # A pattern of the paths of parameters that stay: "stem|stage_0".
            "rates": (),  # Patterns, and shares of the rate there: (("stage_1", 0.1), ...).
            "label_smoothing": 0.0,  # Share of each target that goes to all classes.
            "clip_norm": 0.0,  # The gradient's global norm is cut to it; 0: not at all.
            "average_epochs": 0,  # Of them, the last: their weights' mean is evaluated; 0: no mean.
            "light_share": 0.0,  # Of its steps, the last: without policy, erasing and mixing.
            "augment": {  # See cxv_jax.augment.make.
                "flip": False,  # Mirrors half of the images left to right.
                "crop_padding": 0,  # Pixels of border before a random crop to the old size.
                "random_resized_crop": 0.0,  # Least share of the area that is cut out; 0: off.
                "policy": "none",  # Or "trivial" (TrivialAugmentWide), "rand" (RandAugment).
                "rand_layers": 2,  # RandAugment's operations an image.
                "rand_magnitude": 9,  # Their strength, 0 to 30.
                "erase_probability": 0.0,  # Share of the images that get a black box.
                "mixup_alpha": 0.0,  # Of mixup; 0: off.
                "cutmix_alpha": 0.0,  # Of CutMix; 0: off.
            },
        }
    )


def check_config(config: ConfigDict) -> None:
    """Refuse values that no run can use.

    Raises:
      InputError: naming the field, its value and what it must be.
    """
    for field in (*AT_LEAST_ONE, *AT_LEAST_ZERO):
        least = 1 if field in AT_LEAST_ONE else 0
        _require(config, field, lambda x, least=least: x >= least, f"at least {least}")
    for field in POSITIVE:
        _require(config, field, lambda x: x > 0, "positive")
    for field in SHARES:
        _require(config, field, lambda x: 0 <= x < 1, "in [0, 1)")
    _require(config, "data.std", lambda x: min(x) > 0, "above 0 in every channel")
    _require(config, "selection", lambda x: x in SELECTIONS, "'val', 'test' or 'last'")
    chosen = {"data.order": ORDERS, "select_by": SELECT_BY, "handed": HANDED}
    for field, choices in chosen.items():
        what = f"one of {', '.join(map(repr, choices))}"
        _require(config, field, lambda x, choices=choices: x in choices, what)
    what = "'none', 'balanced', or a number of at least 0 for each class: '1,1,2.5'"
    _require(config, "class_weights", _are_class_weights, what)
    if config.class_weights != "none" and config.data.order == "balanced":
        raise InputError(
            "set config.class_weights or config.data.order=balanced, not both: rare classes would "
            "count twice"
        )
    for field in ("phase1.rates", "phase2.rates"):
        what = "pairs of a pattern and a share of the learning rate above 0: (('stage_1', 0.1),)"
        _require(config, field, _are_rates, what)
    if config.batch_size % max(config.micro_batch, 1):
        raise InputError(
            f"config.micro_batch = {config.micro_batch} must divide config.batch_size = "
            f"{config.batch_size}, or be 0 for the whole batch"
        )
    if config.ema_decay and (config.phase1.average_epochs or config.phase2.average_epochs):
        raise InputError("set config.ema_decay or average_epochs of a phase, not both")
    if config.phase1.epochs + config.phase2.epochs == 0:
        raise InputError("config.phase1.epochs and config.phase2.epochs are both 0: nothing to do")


def _are_class_weights(value: str) -> bool:
    if value in ("none", "balanced"):
        return True
    with contextlib.suppress(ValueError):
        weights = [float(x) for x in value.split(",")]
        return all(0 <= x < math.inf for x in weights) and sum(weights) > 0
    return False


def averages(config: ConfigDict, phase: Phase) -> bool:
    """Whether the evaluated weights are others than those that a phase trains."""
    fields = config[phase.key]
    free = fields.optimizer.startswith("schedule_free")
    return bool(config.ema_decay or fields.average_epochs or free)


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config, as plain data, with the fields that came later at their defaults."""
    model, data = stored.get("model", {}), stored.get("data", {})
    try:
        default = base(model["name"], data["source"])
    except (KeyError, TypeError, InputError):  # Not one of ours: as it is.
        return dict(stored)
    return _merged(json.loads(default.to_json()), stored)


def without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain data but for where the data lie: a run is the same on another machine."""
    data = config.get("data")
    return {**config, "data": {**data, "data_dir": ""} if isinstance(data, Mapping) else data}


def _merged(default: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        key: _merged(default[key], value)
        for key, value in stored.items()
        # What an optimizer is not told it does not get.
        if isinstance(value, Mapping) and isinstance(default.get(key), Mapping) and key != "options"
    }
    return {**default, **stored, **inner}


def short_phases(config: ConfigDict, steps_per_epoch: int) -> list[str]:
    """A line about each phase that can only have few optimizer steps."""
    lines = []
    for phase in Phase:
        epochs = config[phase.key].epochs
        if 0 < (steps := epochs * steps_per_epoch) < FEW_STEPS:
            lines.append(
                f"{phase} has {steps} steps at most ({epochs} x {steps_per_epoch}), which is few: "
                f"raise config.{phase.key}.epochs or lower config.batch_size"
            )
    return lines


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """``FIELD was X, is Y`` for every field of nested plain data that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        nested = (differences(old.get(k), new.get(k), f"{name}.{k}".strip(".")) for k in keys)
        return [line for lines in nested for line in lines]
    return [] if old == new else [f"{name} was {old!r}, is {new!r}"]


def _are_rates(value: Any) -> bool:
    pairs = [pair for pair in value if isinstance(pair, tuple | list) and len(pair) == 2]
    return len(pairs) == len(value) and all(
        isinstance(pattern, str) and isinstance(share, int | float) and share > 0
        for pattern, share in pairs
    )


def _require(config: ConfigDict, field: str, holds: Any, what: str) -> None:
    value = _get(config, field)
    if not holds(value):
        raise InputError(f"config.{field} = {value!r} must be {what}")


def _get(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        if name not in config:
            raise InputError(f"the config has no field {field!r}{nearest(name, list(config))}")
        config = config[name]
    return config
