"""Your own pictures: ``PATH/CLASS/*.jpg``, or ``PATH/train/CLASS/*.jpg`` with ``val`` and ``test``.

Variants: ``folder.py:MODEL[,RECIPE]``.
Command: ``python -m experiments.train --config=experiments/configs/folder.py:cpv,strong
--config.data.source=folder:PATH --config.data.image_size=64``
Hardware, time, accuracy: depend on the pictures.
"""

from ml_collections import ConfigDict

from experiments.configs.recipes import build


def get_config(variant: str = "cpv") -> ConfigDict:
    config = build(variant, "folder:PATH", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    config.data.image_size = 64
    return config
