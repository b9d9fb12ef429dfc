"""Handwritten digits (1,797 images of 8x8, inside scikit-learn): the five-minute CPU run.

Variants: ``digits.py:cpv`` (default), ``:cnv``, ``:cltv``. Not in the paper.
Command: ``python -m experiments.train --config=experiments/configs/digits.py:cpv``
Hardware, time, accuracy: see docs/results/digits.md.
"""

from ml_collections import ConfigDict

from experiments.configs.defaults import base


def get_config(variant: str = "cpv") -> ConfigDict:
    config = base(variant, "digits")
    config.model.update(embed_dim=64, depth=3, num_heads=2, dropout=0.1)
    config.data.mean, config.data.std = (0.3053,) * 3, (0.3760,) * 3
    config.data.val_fraction = 0.15
    config.batch_size = 64
    config.phase1.update(epochs=25, patience=8)
    config.phase2.update(epochs=10, patience=5)
    for phase in (config.phase1, config.phase2):
        phase.augment.crop_padding = 1
    return config
