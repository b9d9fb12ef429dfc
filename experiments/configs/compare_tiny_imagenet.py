"""Tiny ImageNet (64x64 pixels): the paper's systems at their published sizes, for a GPU.

As in the paper, the systems with quadratic attention or tokens tied to one number see 1,024 tokens:
patches of 2x2 pixels, or a stride of 2 where they convolve first. CXV sees all 4,096.

Variants: ``compare_tiny_imagenet.py:strong`` takes the strong recipe, ``:cpv,vit`` some of the
systems, ``:strong,cpv,vit`` both.
Command: ``python -m experiments.compare --config=experiments/configs/compare_tiny_imagenet.py
--config.data.data_dir=FOLDER`` with the official zip or folder in FOLDER.
Hardware, time, accuracy: unmeasured.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.configs import tiny_imagenet
from experiments.configs.comparison import PUBLISHED, Systems, at_full_size

PATCHES: dict[str, Any] = {"patch_size": 2}
STRIDES: dict[str, Any] = {"stem_strides": (2, 1, 1)}
FEWER_TOKENS: Systems = {
    "vit": PATCHES,
    "hybrid_vin": STRIDES,
    "hybrid_vip": STRIDES,
    "hybrid_vil": STRIDES,
    "fnet": PATCHES,
    "mlp_mixer": PATCHES,
    "cvt": {"embed_strides": (2, 1, 1)},
}
SYSTEMS = {label: {**model, **FEWER_TOKENS.get(label, {})} for label, model in PUBLISHED.items()}


def get_config(variant: str = "") -> ConfigDict:
    return at_full_size(tiny_imagenet, SYSTEMS, variant)
