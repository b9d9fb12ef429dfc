"""The recipes of every data set: the authors', a strong, one for few images, one for a CPU."""

from ml_collections import ConfigDict

from cxv_jax.config import base
from cxv_jax.errors import InputError, nearest


def build(variant: str, source: str, mean: tuple[float, ...], std: tuple[float, ...]) -> ConfigDict:
    """A run of ``MODEL`` or ``MODEL,RECIPE`` (``cpv,strong``) on ``source``; default paper."""
    model, _, recipe = variant.partition(",")
    config = base(model, source)
    config.data.mean, config.data.std = mean, std
    if (recipe or "paper") not in RECIPES:
        near = nearest(recipe, RECIPES, MEANINGS)
        raise InputError(f"unknown recipe {recipe!r}{near}")
    return RECIPES[recipe or "paper"](config)


def paper(config: ConfigDict) -> ConfigDict:
    """No augmentation, no schedule: AdamW until 20 epochs without progress, then SGD likewise.

    Selection is on validation; ``--config.selection=test`` reproduces the authors' protocol.
    """
    config.phase1.update(epochs=500, patience=20)
    config.phase2.update(epochs=500, patience=20)
    return config


def strong(config: ConfigDict) -> ConfigDict:
    """TrivialAugment, mixup or CutMix, label smoothing, EMA, cosine with warm-up; then plain SGD.

    The second phase sees the images as they are, as the authors' later "post-training". No dropout
    but stochastic depth: the published dropout stood in for augmentation, and with both a small
    network learns too little.
    """
    modern(config, drop_path=0.1, weight_decay=0.05)
    config.ema_decay = 0.999
    config.phase1.augment.update(erase_probability=0.1, mixup_alpha=0.2, cutmix_alpha=1.0)
    config.phase2.update(epochs=100, patience=20)
    return config


def small(config: ConfigDict) -> ConfigDict:
    """For a few hundred images: small batches, a large weight decay, a long cosine, no mixing.

    One phase, and its last weights: with so few images a validation split costs more than it tells.
    """
    modern(config, drop_path=0.0, weight_decay=0.1)
    config.batch_size = 50
    config.phase1.learning_rate = 5e-3
    config.phase2.epochs = 0
    config.selection = "last"
    return config


def fast(config: ConfigDict) -> ConfigDict:
    """For a whole data set in about two hours of one core: flip and crop, 25 epochs, a cosine.

    So short a run underfits: it has no policy, mixing, stochastic depth or average of weights. One
    phase, and its last weights.
    """
    modern(config, drop_path=0.0, weight_decay=0.05)
    config.batch_size, config.data.val_fraction = 64, 0.04  # For predict's temperature alone.
    config.phase1.update(epochs=25, patience=25, warmup_epochs=2, learning_rate=3e-3)
    config.phase1.augment.policy, config.phase1.light_share = "none", 0.0
    config.phase2.epochs, config.selection = 0, "last"
    return config


def modern(config: ConfigDict, *, drop_path: float, weight_decay: float) -> None:
    """What all but ``paper`` share: every dropout 0, augmentation, a cosine with warm-up."""
    for field in config.model:
        if "dropout" in field:
            config.model[field] = 0.0
    if "drop_path" in config.model:
        config.model.drop_path = drop_path
    config.phase1.update(
        epochs=200,
        patience=200,  # The schedule ends the phase.
        schedule="cosine",
        warmup_epochs=5,
        label_smoothing=0.1,
        decay_kernels_only=True,
        clip_norm=1.0,
        light_share=0.1,
    )
    config.phase1.options.weight_decay = weight_decay
    config.phase1.augment.update(flip=True, crop_padding=4, policy="trivial")


RECIPES = {"paper": paper, "strong": strong, "small": small, "fast": fast}
MEANINGS = {
    **dict.fromkeys(("published", "original", "default", "plain", "authors"), "paper"),
    **dict.fromkeys(("modern", "heavy", "augmented", "large", "best"), "strong"),
    **dict.fromkeys(("few", "tiny", "limited", "nano", "low_data"), "small"),
    **dict.fromkeys(("quick", "short", "speed", "speedrun", "cpu"), "fast"),
}
