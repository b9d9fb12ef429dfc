"""What the parts of the pyramid are worth: CIFAR-10, few images a class, ``cxv_nano``.

One change at a time from the default: the mixer, the rule of its attention, the normaliser, the
stem, the skip path, the MLP, the batch size; and a ResNet of the same number of parameters.
``none`` has no attention at all; ``none_wide`` spends the parameters of attention on width.
Validation is 400 images a class that no run trains on (``data.splits="gem"``: the 400 behind those
that train), so that choices by it say something.

Variants: ``compare_ablation.py:IMAGES[,SYSTEM...]``, ``IMAGES`` a class: 50 or 100.
Command: ``python -m experiments.compare --config=experiments/configs/compare_ablation.py:100
--config.data.data_dir=FOLDER --workdir=docs/results/ablation/100`` with CIFAR-10 in FOLDER.
Hardware, time, accuracy: docs/results/ablation.
"""

from ml_collections import ConfigDict

from experiments.configs import compare_limited
from experiments.configs.comparison import Systems, compare

FULL_STEM = {"stem_strides": (1, 1), "strides": (2, 2)}
CHANGES: Systems = {
    "default": {},
    "none": {"mixer": "none"},
    "none_wide": compare_limited.SYSTEMS["no_attention"],
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
    "batch_50": {},
    "full_stem": FULL_STEM,
    "full_stem_none": {**FULL_STEM, "mixer": "none"},
    "full_stem_mlp_ratio_1": {
        **FULL_STEM,
        **{"mlp_ratio": 1.0, "embed_dims": (34, 68), "num_heads": (1, 2)},
    },
    "full_stem_batch_50": FULL_STEM,
}
SYSTEMS: Systems = {
    **{label: {"name": "cxv_nano", **change} for label, change in CHANGES.items()},
    **dict.fromkeys(("resnet", "resnet_batch_50"), compare_limited.SYSTEMS["resnet"]),
}


IMAGES = (50, 100)


def get_config(variant: str = "100") -> ConfigDict:
    images, *only = variant.split(",")
    count = compare_limited.number(images, IMAGES)
    recipe = compare_limited.recipe(count, tune=False)
    recipe.batch_size, recipe.phase1.learning_rate = 25, 2e-3
    recipe.data.update(subset_per_class=count + 400, val_per_class=400)
    config = compare(recipe, SYSTEMS, ",".join(only))
    large = {name: {"batch_size": 50} for name in config.systems if name.endswith("batch_50")}
    config.training = ConfigDict(large)
    config.handoff, config.seeds = "without", (0, 1, 2)
    return config
