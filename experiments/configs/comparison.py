"""What a comparison has besides a recipe: systems, seeds, with and without handoff, a budget."""

from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from cxv_jax.errors import InputError

Systems = dict[str, dict[str, Any]]  # A label to a model's name and overrides.


def compare(recipe: ConfigDict, systems: Systems, only: str = "") -> ConfigDict:
    """A comparison of ``systems`` under ``recipe``.

    ``recipe`` is a training config whose model and seed do not count; ``systems`` maps a label to
    a model's ``name`` and overrides; ``only`` (``cpv,vit``) keeps some of them.
    """
    labels = only.split(",") if only else list(systems)
    if unknown := [label for label in labels if label not in systems]:
        raise InputError(f"unknown system {unknown[0]!r}; choose from {', '.join(systems)}")
    config = ConfigDict({k: v for k, v in recipe.items() if k not in ("model", "seed")})
    config.systems = ConfigDict({label: systems[label] for label in labels})
    config.training = ConfigDict()  # A label to fields of its runs, such as a tuned rate.
    config.seeds = (0,)
    config.handoff = "both"  # Or "with" the second optimizer, or "without".
    config.budget = ConfigDict(
        {
            "seconds": 0.0,  # Of training steps for each run; 0: as `images` says.
            "images": 0,  # Seen by each run; 0: the epochs of the phases.
        }
    )
    return config


def in_folds(recipe: ConfigDict, number: int) -> ConfigDict:
    """Cross-validation of a training config: its model alone, once on each of ``number`` folds."""
    config = compare(recipe, {recipe.model.name: recipe.model.to_dict()})
    config.data.update(splits="folds", folds=number)
    config.seeds = tuple(range(number))
    config.handoff = "with" if recipe.phase2.epochs else "without"
    return config


# The systems of the paper's tables, at the sizes for images of 32x32 pixels.
PUBLISHED: Systems = {
    name: {"name": name}
    for name in (
        *("cpv", "cnv", "cltv", "vit", "hybrid_vin", "hybrid_vip", "hybrid_vil", "fnet"),
        *("mlp_mixer", "convmixer", "cct_7_3x1", "cvt", "resnet18"),
    )
}


def at_full_size(dataset: ModuleType, systems: Systems, variant: str) -> ConfigDict:
    """Published sizes for a GPU, bfloat16, three seeds, 60 + 20 epochs of a recipe of ``dataset``.

    ``variant``: labels to keep and, if it shall not be ``paper``, the recipe ``strong``.
    """
    words = [word for word in variant.split(",") if word]
    name = "strong" if "strong" in words else "paper"
    recipe = dataset.get_config(f"cpv,{name}")
    recipe.phase1.epochs, recipe.phase2.epochs = 60, 20
    narrow = {label: {**system, "dtype": "bfloat16"} for label, system in systems.items()}
    only = ",".join(word for word in words if word not in ("strong", "paper"))
    config = compare(recipe, narrow, only)
    config.seeds = (0, 1, 2)
    return config
