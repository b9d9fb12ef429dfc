"""Every model by name: ``create("cpv", num_classes=10, depth=3)``."""

import difflib
import inspect
from functools import partial
from typing import Any

import flax.linen as nn

from cxv_jax.errors import InputError
from cxv_jax.models.cxv import CXV

# A name is a module class with the arguments that make it what it is.
MODELS: dict[str, partial[nn.Module]] = {
    "cpv": partial(CXV, mixer="performer"),
    "cnv": partial(CXV, mixer="nystrom"),
    "cltv": partial(CXV, mixer="linear"),
}


def create(name: str, num_classes: int = 10, **overrides: Any) -> nn.Module:
    """Build a model by name.

    Args:
      name: a key of ``MODELS``.
      num_classes: outputs of the head.
      **overrides: fields of the model's class, see its docstring; ``dtype`` may be a string.

    Returns:
      A Flax module; ``apply(variables, images, train=False)`` takes float NHWC images and returns
      float32 logits ``[batch, num_classes]``.

    Raises:
      InputError: (a ``ValueError``) for an unknown model or field, naming the nearest one.

    Example:
      >>> create("cpv", num_classes=100, depth=2).depth
      2
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}{_nearest(name, MODELS)}")
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    allowed = defaults(name)
    for field in overrides:
        if field not in allowed:
            raise InputError(f"model {name!r} has no field {field!r}{_nearest(field, allowed)}")
    return MODELS[name](num_classes=num_classes, **overrides)


def defaults(name: str) -> dict[str, Any]:
    """The fields of model ``name`` that :func:`create` lets you override, with their defaults."""
    model = MODELS[name]
    fields = inspect.signature(model).parameters.values()
    fixed = {"parent", "name", "num_classes", "mixer"}
    return {f.name: f.default for f in fields if f.name not in fixed}


def _nearest(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(word, choices, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(choices)}"
