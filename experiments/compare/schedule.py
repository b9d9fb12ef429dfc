"""Which runs a comparison consists of, and the config of each."""

from typing import Any

from ml_collections import ConfigDict

from cxv_jax.data.splits import Dataset
from cxv_jax.errors import InputError, nearest
from cxv_jax.profile import complete

# What a comparison's config has besides the fields of a training config.
OWN_FIELDS = ("systems", "training", "seeds", "handoff", "budget")
ARMS = (
    "arms",
    "contrasts",
    "primary",
    "equivalence",
)  # Further ones, of a comparison that has arms.
HANDOFFS = {"both": (True, False), "with": (True,), "without": (False,)}

# One training run: system, seed, with the handoff or without it, or the label of an arm.
Kind = bool | str
Which = tuple[str, int, Kind]


def run_name(system: str, seed: int, kind: Kind) -> str:
    """The run's folder: ``cpv-seed0``, without the handoff ``cpv-seed0-single``, or ``…-ARM``."""
    ending = f"-{kind}" if isinstance(kind, str) else "" if kind else "-single"
    return f"{system}-seed{seed}{ending}"


def check(config: ConfigDict) -> None:
    """Refuse a comparison that cannot be made, before any work is done.

    Raises:
      InputError: naming the field and what it must be.
    """
    wanted = (*OWN_FIELDS, *(ARMS if config.get("arms") else ()))
    if missing := [field for field in wanted if field not in config]:
        raise InputError(f"this is no config of a comparison: it has no {', '.join(missing)}")
    if not config.systems:
        raise InputError("config.systems is empty: name at least one system")
    for name, system in config.systems.items():
        if "name" not in system:
            raise InputError(f"config.systems.{name} has no name of a model")
    if config.handoff not in HANDOFFS:
        raise InputError(
            f"config.handoff = {config.handoff!r} must be one of {', '.join(HANDOFFS)}"
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"config.seeds = {config.seeds} must be different numbers, at least one")
    if config.data.splits == "folds" and not set(config.seeds) <= set(range(config.data.folds)):
        raise InputError(
            f"config.seeds = {config.seeds} must be folds, from 0 to {config.data.folds - 1}"
        )
    if config.get("arms") and (config.budget.seconds or config.budget.images):
        raise InputError("config.arms have their own epochs: leave config.budget at 0")
    for one in {label for pair in config.get("contrasts", {}).values() for label in pair}:
        if one not in config.arms:
            raise InputError(f"config.contrasts name {one!r}{nearest(one, list(config.arms))}")
    if config.budget.seconds < 0 or config.budget.images < 0:
        raise InputError("config.budget.seconds and config.budget.images must be at least 0")
    if config.budget.seconds and config.budget.images:
        raise InputError("set config.budget.seconds or config.budget.images, not both")


def runs_of(config: ConfigDict) -> list[Which]:
    """``(system, seed, kind)`` of every run; all systems with one seed, then the next seed."""
    kinds: tuple[Kind, ...] = tuple(config.get("arms", ())) or HANDOFFS[config.handoff]
    return [(s, seed, kind) for seed in config.seeds for s in config.systems for kind in kinds]


def build(config: ConfigDict, dataset: Dataset, costs: dict[str, Any], which: Which) -> ConfigDict:
    """The config of one run, an ordinary training config.

    Without the handoff, phase one also gets the epochs of phase two, so that both kinds of run get
    the same number of epochs. ``config.training`` has what a system does in its own way, its
    learning rate for example. An arm has its fields besides, and in ``training`` those of a system.
    Of ``gem`` splits and of folds seed ``i`` takes split ``i``. A budget in images or seconds is
    turned into epochs, split over the phases as the config's epochs are; seconds by the measured
    rate of the training step alone.

    Args:
      config: of the comparison.
      dataset: what it is trained on.
      costs: of the system; ``train_images_per_second`` is used for a budget in seconds.
      which: system, seed, with handoff or not, or the arm.

    Raises:
      InputError: for a budget in seconds without a measured rate.
    """
    system, seed, kind = which
    fields = config.to_dict()
    single = ConfigDict({k: v for k, v in fields.items() if k not in (*OWN_FIELDS, *ARMS)})
    single.seed = seed
    single.model = ConfigDict(complete(fields["systems"][system], dataset.image_shape[0]))
    single.update(fields["training"].get(system, {}))
    if single.data.splits != "random":
        single.data.split_index = seed
    one, two = _epochs(config, len(dataset.splits["train"]), costs)
    single.phase1.epochs, single.phase2.epochs = one, two
    if isinstance(kind, str):
        arm = dict(fields["arms"][kind])
        own = arm.pop("training", {}).get(system, {})
        for fields in (arm, own):
            for phase in (x for x in ("phase1", "phase2") if "options" in fields.get(x, {})):
                single[phase].options = ConfigDict()  # Others would be told to another optimizer.
            single.update(fields)
    elif not kind:
        single.phase1.epochs = one + two
        single.phase2.update(epochs=0, schedule="constant")  # A cosine over nothing is refused.
    return single


def _epochs(config: ConfigDict, train_images: int, costs: dict[str, Any]) -> tuple[int, int]:
    """Epochs of both phases."""
    one, two = config.phase1.epochs, config.phase2.epochs
    images = config.budget.images
    if config.budget.seconds:
        if "train_images_per_second" not in costs:
            raise InputError("no rate could be measured, so a budget in seconds means nothing")
        images = config.budget.seconds * costs["train_images_per_second"]
    if not images:
        return one, two
    whole_batches = train_images // config.batch_size * config.batch_size
    total = max(1, round(images / max(1, whole_batches)))
    second = min(total - 1, round(total * two / (one + two)))
    return total - second, second
