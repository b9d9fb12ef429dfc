"""CIFAR-10 (50,000 + 10,000 images of 32x32): the paper's first table.

Variants: ``cifar10.py:MODEL[,RECIPE]``, e.g. ``:cpv`` (paper, 94.46 %, arXiv 2201.10271), ``:cnv``,
``:cltv``, ``:cpv,strong``, ``:cxv_small,fast``; any model of ``cxv_jax.models`` may stand there.
Command: ``python -m experiments.train --config=experiments/configs/cifar10.py:cpv
--config.data.data_dir=FOLDER`` with the official archive or its folder in FOLDER.
Hardware, time, accuracy: docs/results/cifar10_fast for ``:cxv_small,fast``; unmeasured at the
published size, small sizes in docs/results.
"""

from ml_collections import ConfigDict

from experiments.configs.recipes import build


def get_config(variant: str = "cpv") -> ConfigDict:
    return build(variant, "cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
