"""Handwritten digits: seven small systems of 25,000 parameters, with and without the handoff.

Variants: ``compare_digits.py:cpv,resnet`` keeps some of the systems.
Command: ``python -m experiments.compare --config=experiments/configs/compare_digits.py``
Hardware, time, accuracy: see docs/results; about ten minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from experiments.configs import digits
from experiments.configs.comparison import Systems, compare

CXV = {"embed_dim": 28, "depth": 2, "num_heads": 2, "head_dim": 14, "dropout": 0.1}
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "head_dim": 16, "mlp_dim": 64, "dropout": 0.1}
SYSTEMS: Systems = {
    "cpv": {"name": "cpv", **CXV},
    "cnv": {"name": "cnv", **CXV, "num_landmarks": 16, "residual_kernel": 9},
    "cltv": {"name": "cltv", **CXV, "embed_dim": 16, "head_dim": 8},
    "vit": {"name": "vit", **VIT, "mlp_dim": 108},
    "hybrid_vip": {"name": "hybrid_vip", **VIT, "stem_dims": (8, 16)},
    "convmixer": {"name": "convmixer", "embed_dim": 64, "depth": 4, "patch_size": 1},
    "resnet": {"name": "resnet18", "widths": (18, 36), "depths": (1, 1)},
}


def get_config(only: str = "") -> ConfigDict:
    recipe = digits.get_config()
    recipe.phase1.update(epochs=9, warmup_epochs=1)
    recipe.phase2.update(epochs=3)
    return compare(recipe, SYSTEMS, only)
