"""CIFAR-10 in halves: train on five classes, fine-tune on 50 images of each of the other five.

The comparison is of ``cxv_nano`` begun with the weights of ``:first`` and with random ones, under
one recipe and length; seed ``i`` of three trains split ``i`` (``data.splits="gem"``).

Variants: ``:first``, a training on 500 images of each of the first five classes; ``:RUN``, a
comparison that begins with the run in that folder (default runs/cifar10_first).
Command: ``python -m experiments.train --config=experiments/configs/compare_fine_tuning.py:first
--config.data.data_dir=FOLDER --workdir=runs/cifar10_first``, then ``python -m experiments.compare
--config=experiments/configs/compare_fine_tuning.py --config.data.data_dir=FOLDER
--workdir=docs/results/fine_tuning`` with CIFAR-10 in FOLDER.
Hardware, time, accuracy: docs/results/fine_tuning.
"""

from ml_collections import ConfigDict

from experiments.configs import cifar10, compare_limited
from experiments.configs.comparison import compare

FIRST = ("airplane", "automobile", "bird", "cat", "deer")
OTHERS = ("dog", "frog", "horse", "ship", "truck")


def get_config(variant: str = "runs/cifar10_first") -> ConfigDict:
    if variant == "first":
        config = cifar10.get_config("cxv_nano,small")
        config.data.update(classes=FIRST, splits="gem", subset_per_class=500, val_fraction=0.0)
        config.phase1.update(epochs=20, warmup_epochs=1, learning_rate=2e-3)
        return config
    recipe = compare_limited.recipe(50, tune=False)
    recipe.data.classes = OTHERS
    recipe.phase1.update(epochs=40, warmup_epochs=2, learning_rate=2e-3)
    config = compare(recipe, {name: {"name": "cxv_nano"} for name in ("fine_tuned", "scratch")})
    config.training = ConfigDict({"fine_tuned": {"init_from": variant}})
    config.handoff, config.seeds = "without", (0, 1, 2)
    return config
