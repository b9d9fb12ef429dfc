"""The two recipes that every data set offers: as the authors train, and a strong modern one."""

from ml_collections import ConfigDict

from cxv_jax.config import base
from cxv_jax.errors import InputError


def build(variant: str, source: str, mean: tuple[float, ...], std: tuple[float, ...]) -> ConfigDict:
    """A run of ``MODEL`` or ``MODEL,RECIPE`` (``cpv,strong``) on ``source``; default paper."""
    model, _, recipe = variant.partition(",")
    config = base(model, source)
    config.data.mean, config.data.std = mean, std
    if recipe not in ("", "paper", "strong"):
        raise InputError(f"unknown recipe {recipe!r}; choose from paper, strong")
    return strong(config) if recipe == "strong" else paper(config)


def paper(config: ConfigDict) -> ConfigDict:
    """No augmentation, no schedule: AdamW until 20 epochs without progress, then SGD likewise.

    Selection is on validation; ``--config.selection=test`` reproduces the authors' protocol.
    """
    config.phase1.update(epochs=500, patience=20)
    config.phase2.update(epochs=500, patience=20)
    return config


def strong(config: ConfigDict) -> ConfigDict:
    """TrivialAugment, mixup or CutMix, label smoothing, EMA, cosine with warm-up; then plain SGD.

    The second phase sees the images as they are, as the authors' later "post-training".
    """
    config.ema_decay = 0.999
    config.phase1.update(
        epochs=200,
        patience=200,  # The schedule ends the phase.
        schedule="cosine",
        warmup_epochs=5,
        label_smoothing=0.1,
        decay_kernels_only=True,
    )
    config.phase1.options.weight_decay = 0.05
    config.phase1.augment.update(
        flip=True,
        crop_padding=4,
        policy="trivial",
        erase_probability=0.1,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    )
    config.phase2.update(epochs=100, patience=20)
    return config
