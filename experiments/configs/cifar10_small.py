"""Limited data on a CPU: 1,000 CIFAR-10 images a class, a CPV of 0.10 M parameters, 16x16 tokens.

Variants: ``cifar10_small.py:MODEL[,RECIPE]`` as in ``cifar10.py``; sizes below are for CXV models.
Command: ``python -m experiments.train --config=experiments/configs/cifar10_small.py:cpv,strong
--config.data.data_dir=FOLDER --config.seed=0``
Hardware, time, accuracy: docs/results/cifar10_small.md.
"""

from ml_collections import ConfigDict

from experiments.configs import cifar10


def get_config(variant: str = "cpv") -> ConfigDict:
    config = cifar10.get_config(variant)
    config.data.subset_per_class = 1000
    config.model.update(embed_dim=56, embed_stride=2, depth=2, num_heads=2, dropout=0.1)
    config.phase1.update(epochs=8)
    config.phase2.update(epochs=4)
    config.phase1.warmup_epochs = min(config.phase1.warmup_epochs, 2)
    config.ema_decay = min(config.ema_decay, 0.99)  # Few steps: a shorter memory.
    return config
