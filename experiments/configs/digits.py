"""Handwritten digits (1,797 images of 8x8, inside scikit-learn): the five-minute CPU run.

Variants: ``digits.py:cpv`` (default), ``:cnv``, ``:cltv``. Not in the paper.
Command: ``python -m experiments.train --config=experiments/configs/digits.py:cpv``
Hardware, time, accuracy: see docs/results/digits.md.
"""

from ml_collections import ConfigDict

from cxv_jax.config import base


def get_config(variant: str = "cpv") -> ConfigDict:
    config = base(variant, "digits")
    config.data.mean, config.data.std = (0.3053,) * 3, (0.3760,) * 3
    config.batch_size = 32
    config.phase1.update(
        epochs=20, patience=20, learning_rate=2e-3, schedule="cosine", warmup_epochs=2
    )
    config.phase2.update(epochs=6, patience=3)
    config.ema_decay = 0.98
    for phase in (config.phase1, config.phase2):
        phase.augment.crop_padding = 1
    if variant in ("cpv", "cnv", "cltv"):
        config.model.update(embed_dim=64, depth=3, num_heads=2, dropout=0.1)
        config.model.attention_dropout = {"cpv": 0.5, "cnv": 0.1, "cltv": 0.0}[variant]
        config.model.num_landmarks = 16  # For 64 tokens: 64 landmarks would be no saving.
    return config
