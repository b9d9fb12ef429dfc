"""Your own pictures, with everything chosen from them: what ``--data=PATH`` stands for.

Variants: ``own.py:MODEL,RECIPE,PATH``; an empty MODEL or RECIPE is chosen (``own.py:,,PATH``).
Command: ``python -m experiments.train --data=PATH``
Hardware, time, accuracy: depend on the pictures.
"""

from ml_collections import ConfigDict

from cxv_jax.errors import InputError
from experiments import own_pictures


def get_config(variant: str = "") -> ConfigDict:
    model, _, rest = variant.partition(",")
    recipe, _, data = rest.partition(",")
    if not data:
        raise InputError("expected own.py:MODEL,RECIPE,PATH; simpler is --data=PATH")
    return own_pictures.choose(own_pictures.look(data, recipe), model)
