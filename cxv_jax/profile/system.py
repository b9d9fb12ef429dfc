"""All costs of one system: a model by name with its overrides."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cxv_jax import machine, models
from cxv_jax.config import base
from cxv_jax.data.splits import Dataset, Split
from cxv_jax.phase import Phase
from cxv_jax.profile.compiled import (
    flops,
    forward_program,
    memory,
    traffic,
    train_program,
)
from cxv_jax.profile.measured import measure
from cxv_jax.profile.parameters import count_parameters
from cxv_jax.session import Session


def complete(system: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Every field of a model: the overrides in ``system``, else the defaults.

    Args:
      system: ``name`` and overrides, as for ``models.create``. An unknown name comes back as it
        is: ``models.create`` refuses it.
      image_size: for models that are built for one size, unless ``system`` has its own.

    Example:
      >>> complete({"name": "vit", "depth": 2}, 8)["image_size"]
      8
    """
    if system["name"] not in models.MODELS:
        return dict(system)
    defaults = models.defaults(system["name"])
    sized = {"image_size": image_size} if "image_size" in defaults else {}
    return {**defaults, **sized, **system}


def profile(
    system: Mapping[str, Any],
    *,
    num_classes: int = 10,
    image_size: int = 32,
    batch_size: int = 64,
    repeats: int = 5,
) -> dict[str, Any]:
    """What a system costs to train and to run, on the first device.

    Args:
      system: ``name`` and overrides, see :func:`complete`; its ``dtype`` is the precision.
      num_classes: width of the head.
      image_size: height and width of the images.
      batch_size: images of a step.
      repeats: of the timed runs; 0: time nothing, only compile.

    Returns:
      ``parameters``, ``parameters_torchsummary``; per image ``forward_flops``, ``train_flops``
      (see :func:`flops`) and ``train_traffic`` in bytes; in bytes ``train_memory`` and
      ``inference_memory`` (at this batch size) with their parts ``train_temporary`` and
      ``inference_temporary``; and, unless ``repeats`` is
      0, what :func:`measure` returns and ``peak_memory_bytes`` measured in ``peak_memory_of`` (the
      device; the process on a CPU) since the process began: profile one system a process.

    Raises:
      InputError: for an unknown model or field, or images that do not fit the model.
    """
    session = session_of(system, num_classes, image_size, batch_size)
    model, shape = session.model, session.dataset.image_shape
    params = session.phases[Phase.ONE].template.params
    trainable, printed = count_parameters({"params": params}, session.config.model.name)
    train, forward = train_program(session), forward_program(model, shape, batch_size)
    costs: dict[str, Any] = {"parameters": trainable, "parameters_torchsummary": printed}
    for name, program in (("train", train), ("forward", forward)):
        costs[f"{name}_flops"] = flops(program) / batch_size
    for name, program in (("train", train), ("inference", forward)):
        bytes_of = memory(program)
        costs |= {f"{name}_memory": bytes_of["peak"], f"{name}_temporary": bytes_of["temporary"]}
    costs["train_traffic"] = traffic(train) / batch_size
    if repeats:
        if not session.on_cpu:  # As the training loop has it.
            session = session_of(system, num_classes, image_size, batch_size, steps=16)
            train = train_program(session)
        costs |= measure(session, train=train, forward=forward, repeats=repeats)
        costs |= machine.peak_memory()
    return costs


def session_of(
    system: Mapping[str, Any], num_classes: int, image_size: int, batch_size: int, steps: int = 1
) -> Session:
    """The training of a system with the default first phase, on one device and random images.

    Args:
      system: see :func:`complete`.
      num_classes: width of the head.
      image_size: height and width of the images.
      batch_size: images of a step.
      steps: in one call; so many batches there are.
    """
    fields = complete(system, image_size)
    config = base(fields["name"], "random images")
    with config.unlocked():
        config.model.update(fields)
        config.update(batch_size=batch_size, steps_per_call=steps)
    draw, count = np.random.default_rng(0), steps * batch_size
    images = draw.integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    split = Split(images, draw.integers(0, num_classes, count, dtype=np.int32))
    names = tuple(f"class {i}" for i in range(num_classes))
    return Session.of(config, dataset=Dataset("random images", names, {"train": split}), devices=1)
