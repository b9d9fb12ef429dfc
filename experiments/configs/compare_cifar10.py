"""CIFAR-10, all images: the paper's systems at their published sizes, for a GPU.

Variants: ``compare_cifar10.py:strong`` takes the strong recipe, ``:cpv,vit`` some of the systems,
``:strong,cpv,vit`` both.
Command: ``python -m experiments.compare --config=experiments/configs/compare_cifar10.py
--config.data.data_dir=FOLDER`` with the official archive or its folder in FOLDER.
Hardware, time, accuracy: unmeasured.
"""

from ml_collections import ConfigDict

from experiments.configs import cifar10
from experiments.configs.comparison import PUBLISHED, at_full_size


def get_config(variant: str = "") -> ConfigDict:
    return at_full_size(cifar10, PUBLISHED, variant)
