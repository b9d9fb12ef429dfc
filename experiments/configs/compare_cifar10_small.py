"""CIFAR-10 with 500 images of each class: thirteen systems of 100,000 parameters on a CPU.

Parameters are equal within 5 %. At most 16x16 tokens, so that a run takes minutes: systems that
keep one size see 8x8 (patches of 4x4 pixels, or convolutions with strides), ConvMixer 16x16 as
published; pyramids begin at 16x16 (CXV's stride of 2 is in every block: 16x16, 8x8, 4x4). One
recipe for all, the paper's: no augmentation, no schedule, AdamW and then SGD; no dropout but CPV's
own 0.5 after attention.

Variants: ``compare_cifar10_small.py:cpv,vit`` keeps some of the systems.
Command: ``python -m experiments.compare --config=experiments/configs/compare_cifar10_small.py
--config.data.data_dir=FOLDER`` with the official archive or its folder in FOLDER.
Hardware, time, accuracy: docs/results/compare_cifar10_small (one seed, --config.handoff=with).
"""

from ml_collections import ConfigDict

from experiments.configs import cifar10
from experiments.configs.comparison import Systems, compare

CXV = {"embed_stride": 2, "depth": 3, "num_heads": 4, "dropout": 0.0}
VIT = {"depth": 4, "embed_dim": 52, "num_heads": 4, "head_dim": 13, "dropout": 0.0}
HYBRID = {**VIT, "stem_dims": (12, 24), "stem_strides": (2, 2, 1)}
SYSTEMS: Systems = {
    "cpv": {"name": "cpv", **CXV, "embed_dim": 44, "head_dim": 12},
    "cnv": {"name": "cnv", **CXV, "embed_dim": 44, "head_dim": 12, "num_landmarks": 16},
    "cltv": {"name": "cltv", **CXV, "embed_dim": 28, "head_dim": 6},
    "vit": {"name": "vit", **VIT, "mlp_dim": 116, "patch_size": 4},
    # 13 landmarks divide 8 * 8 + 1 tokens: no padding.
    "hybrid_vin": {"name": "hybrid_vin", **HYBRID, "mlp_dim": 88, "num_landmarks": 13},
    "hybrid_vip": {"name": "hybrid_vip", **HYBRID, "mlp_dim": 88},
    "hybrid_vil": {"name": "hybrid_vil", **HYBRID, "mlp_dim": 104, "num_projected": 16},
    "cct": {
        "name": "cct_4_3x2",
        "embed_dim": 56,
        "conv_dim": 32,
        "attention_dropout": 0.0,
        "drop_path": 0.0,
    },
    "cvt": {"name": "cvt", "embed_dims": (32, 44, 55), "embed_strides": (2, 2, 1), "head_dim": 8},
    "convmixer": {"name": "convmixer", "embed_dim": 96},
    "fnet": {"name": "fnet", "depth": 4, "embed_dim": 64, "mlp_dim": 176, "patch_size": 4},
    "mlp_mixer": {
        "name": "mlp_mixer",
        "embed_dim": 64,
        "tokens_dim": 64,
        "channels_dim": 120,
        "patch_size": 4,
    },
    "resnet": {"name": "resnet18", "widths": (18, 36, 72), "depths": (1, 1, 1)},
}


def get_config(only: str = "") -> ConfigDict:
    recipe = cifar10.get_config()
    recipe.data.subset_per_class = 500
    recipe.phase1.update(epochs=8)
    recipe.phase2.update(epochs=3)
    return compare(recipe, SYSTEMS, only)
