"""Tiny ImageNet (100,000 + 10,000 images of 64x64, 200 classes): the paper's third table.

Variants: ``tiny_imagenet.py:MODEL[,RECIPE]``, e.g. ``:cnv`` (paper, 49.56 %, arXiv 2201.10271).
The official test labels are not public: the official validation images serve as test, and
validation is held out of train.
Command: ``python -m experiments.train --config=experiments/configs/tiny_imagenet.py:cnv
--config.data.data_dir=FOLDER`` with the official zip or folder in FOLDER.
Hardware, time, accuracy: unmeasured.
"""

from ml_collections import ConfigDict

from experiments.configs.recipes import build


def get_config(variant: str = "cpv") -> ConfigDict:
    return build(variant, "tiny_imagenet", (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
