"""What the parts of the pyramid are worth: CIFAR-10, 100 images a class, ``cxv_nano``, three seeds.

One change at a time from the default: the mixer, the rule of its attention, the normaliser, the
stem, the skip path, and a convolution in the MLP. ``none`` has no attention at all. Validation is
400 images a class that no run trains on (``data.splits="gem"``: the 400 behind the 100).

Variants: ``compare_ablation.py:none,mala`` keeps some of the systems.
Command: ``python -m experiments.compare --config=experiments/configs/compare_ablation.py
--config.data.data_dir=FOLDER --workdir=docs/results/ablation`` with CIFAR-10 in FOLDER.
Hardware, time, accuracy: not measured yet.
"""

from ml_collections import ConfigDict

from experiments.configs import cifar10
from experiments.configs.comparison import Systems, compare

CHANGES: Systems = {
    "default": {},
    "none": {"mixer": "none"},
    "softmax_features": {"rule": "softmax"},
    "mala": {"rule": "mala"},
    "rala": {"rule": "rala"},
    "performer": {"mixer": "performer"},
    "nystrom": {"mixer": "nystrom", "num_landmarks": 16},
    "softmax": {"mixer": "softmax"},
    "not_local": {"local": False},
    "gate": {"gate": True},
    "group_norm": {"norm": "group"},
    "channel_norm": {"norm": "channel"},
    "plain_stem": {"stem_norm": False},
    "no_skip": {"residual": False},
    "mlp_conv": {"mlp_conv": True},
}
SYSTEMS: Systems = {label: {"name": "cxv_nano", **change} for label, change in CHANGES.items()}


def get_config(only: str = "") -> ConfigDict:
    recipe = cifar10.get_config("cxv_nano,small")
    recipe.data.update(splits="gem", subset_per_class=500, val_per_class=400, val_fraction=0.0)
    recipe.phase1.update(epochs=40, warmup_epochs=2)
    config = compare(recipe, SYSTEMS, only)
    config.handoff, config.seeds = "without", (0, 1, 2)
    return config
