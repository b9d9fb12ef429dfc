"""CIFAR-100 (50,000 + 10,000 images of 32x32, 100 classes): the paper's second table.

Variants: ``cifar100.py:MODEL[,RECIPE]``, e.g. ``:cltv`` (paper, 60.11 %, arXiv 2201.10271).
Command: ``python -m experiments.train --config=experiments/configs/cifar100.py:cltv
--config.data.data_dir=FOLDER`` with the official archive or its folder in FOLDER.
Hardware, time, accuracy: unmeasured.
"""

from ml_collections import ConfigDict

from experiments.configs.recipes import build


def get_config(variant: str = "cpv") -> ConfigDict:
    return build(variant, "cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
