"""Batches in a fixed random order, from accelerator memory or streamed; both give the same ones.

The order of training epoch ``e`` is ``permutation(fold_in(key(seed), e), n)`` without the last
incomplete batch, or one in which all classes are equally frequent (see :mod:`.order`); evaluation
goes through the split in its own order and pads the last batch. So batch ``s`` of epoch ``e``
depends on ``(seed, e, s)`` alone, and a run resumes at any of them.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from cxv_jax.data.resident import Arrays, ResidentLoader
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from cxv_jax.machine import device_memory


@runtime_checkable
class Loader(Protocol):
    """What the training loop needs of a loader."""

    data: Arrays
    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Arrays]]:
        """Yield ``(number of steps, feed)`` from step ``start`` of the epoch to its end."""

    def fetch(self, data: Arrays, feed: Arrays) -> Arrays:
        """Turn one step of a feed into the batch ``image``, ``label`` (``mask``); for jit."""


def make_loader(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    batch_sharding: NamedSharding,
    train: bool,
    kind: str = "auto",
    order_kind: str = "shuffled",
    steps_per_call: int = 1,
    memory_share: float = 0.4,
    workers: int = 0,
) -> Loader:
    """Choose and build a loader.

    Args:
      split: images and labels.
      batch_size: examples a step, over all devices and processes.
      seed: of the order of training epochs.
      batch_sharding: of a ``[batch]`` axis; the mesh is taken from it.
      train: shuffle and drop the last incomplete batch; or natural order, padded, with ``mask``.
      kind: ``resident``, ``streaming`` or ``auto``: resident if the pixels take less than
        ``memory_share`` of the memory of a device (the smallest, so that all processes agree).
      order_kind: of training epochs: ``shuffled`` or ``balanced``, see :mod:`.order`.
      steps_per_call: steps in one feed of a resident loader; the tail of an epoch, and every feed
        of a streaming loader, has one.
      memory_share: see ``kind``.
      workers: processes that read for a streaming loader (0: threads of this process).

    Raises:
      InputError: for an empty split, a batch size that the devices do not divide, or (training)
        one larger than the split.
    """
    _check(split, batch_size, batch_sharding, train)
    if kind == "auto":
        size = len(split) * int(np.prod(split.image_shape))
        least = np.min(multihost_utils.process_allgather(np.float32(device_memory())))
        kind = "resident" if size < memory_share * least else "streaming"
    common: dict[str, Any] = dict(
        batch_size=batch_size, seed=seed, batch_sharding=batch_sharding, train=train
    )
    common["order_kind"] = order_kind
    if kind == "resident":
        return ResidentLoader(split, steps_per_call=steps_per_call, **common)
    if kind == "streaming":
        from cxv_jax.data.streaming import StreamingLoader  # Grain takes a second to import.

        return StreamingLoader(split, workers=workers, **common)
    raise InputError(f"data.loader: expected auto, resident or streaming, got {kind!r}")


def _check(split: Split, batch_size: int, sharding: NamedSharding, train: bool) -> None:
    axes = sharding.spec[0] if len(sharding.spec) else ()
    names = (axes,) if isinstance(axes, str) else axes or ()
    devices = int(np.prod([sharding.mesh.shape[name] for name in names]))
    if batch_size < 1 or batch_size % devices:
        raise InputError(f"batch_size={batch_size} must be a multiple of the {devices} devices")
    if len(split) == 0:
        raise InputError("the split has no images")
    if train and batch_size > len(split):
        raise InputError(
            f"batch_size={batch_size} is larger than the {len(split)} training images: lower it to "
            f"{len(split)} or less"
        )
