"""Batches in a fixed random order, from accelerator memory or streamed; both give the same ones.

The order of training epoch ``e`` is ``permutation(fold_in(key(seed), e), n)`` without the last
incomplete batch; evaluation goes through the split in its own order and pads the last batch. So
batch ``s`` of epoch ``e`` depends on ``(seed, e, s)`` alone, and a run resumes at any of them.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError

Arrays = dict[str, jax.Array]


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
        ``memory_share`` of the memory of a device.
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
        kind = "resident" if size < memory_share * device_memory() else "streaming"
    common: dict[str, Any] = dict(
        batch_size=batch_size, seed=seed, batch_sharding=batch_sharding, train=train
    )
    if kind == "resident":
        return ResidentLoader(split, steps_per_call=steps_per_call, **common)
    raise InputError(f"data.loader: expected auto, resident or streaming, got {kind!r}")


def device_memory() -> int:
    """Bytes of one accelerator; on CPU each device's share of the free memory of the host."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    words = Path("/proc/meminfo").read_text().split()
    return int(words[words.index("MemAvailable:") + 1]) * 1024 // jax.local_device_count()


@partial(jax.jit, static_argnames=("number", "used"))
def shuffled(
    seed: Int[Array, ""], epoch: Int[Array, ""], number: int, used: int
) -> Int[Array, " used"]:
    """The first ``used`` of a random order of ``number`` examples: the one order of an epoch."""
    rng = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
    return jax.random.permutation(rng, number)[:used].astype(jnp.int32)


def in_order(
    number: int, batch_size: int
) -> tuple[Int[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Indices ``[step, batch]`` of an evaluation, padded with example 0, and which are real."""
    steps = -(-number // batch_size)
    index = np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size)
    real = index < number
    return np.where(real, index, 0), real


class ResidentLoader:
    """The whole split in the memory of every device; a feed is only indices, drawn there."""

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        batch_sharding: NamedSharding,
        train: bool,
        steps_per_call: int = 1,
    ):
        mesh, spec = batch_sharding.mesh, batch_sharding.spec
        self._copied = NamedSharding(mesh, P())
        self._batch_sharding = batch_sharding
        self._seed, self._number, self._batch = seed, len(split), batch_size
        self._steps_per_call = steps_per_call
        self.steps_per_epoch = steps(len(split), batch_size, train)
        images = split.images[np.arange(len(split))]
        self.data = {"image": self._put(images), "label": self._put(split.labels)}
        self._slice = jax.jit(
            _steps_from, static_argnames="count", out_shardings=NamedSharding(mesh, P(None, *spec))
        )
        if not train:
            index, mask = in_order(len(split), batch_size)
            feed = {"index": index, "mask": mask.astype(np.float32)}
        self._order = None if train else {name: self._put(value) for name, value in feed.items()}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Arrays]]:
        """Yield ``(k, {"index": int32 [k, batch]})``, with ``"mask"`` in evaluation."""
        order = self._order or {"index": self._shuffled(epoch)}
        while start < self.steps_per_epoch:
            left = self.steps_per_epoch - start
            count = self._steps_per_call if left >= self._steps_per_call else 1
            yield count, self._slice(order, self._put(np.int32(start)), count=count)
            start += count

    def fetch(self, data: Arrays, feed: Arrays) -> Arrays:
        """Gather one step's examples from the split; for jit."""
        taken = {name: value[feed["index"]] for name, value in data.items()}
        masked = {"mask": feed["mask"]} if "mask" in feed else {}
        return jax.lax.with_sharding_constraint({**taken, **masked}, self._batch_sharding)

    def _shuffled(self, epoch: int) -> jax.Array:
        seed, number = self._put(np.int32(self._seed)), self._put(np.int32(epoch))
        used = self.steps_per_epoch * self._batch
        order = shuffled(seed, number, number=self._number, used=used)
        return order.reshape(self.steps_per_epoch, self._batch)

    def _put(self, value: np.ndarray | np.generic) -> jax.Array:
        """Copy to every device, explicitly: the loop runs under a transfer guard."""
        return jax.make_array_from_process_local_data(self._copied, value)


def steps(number: int, batch_size: int, train: bool) -> int:
    """Whole batches in training, all that are needed in evaluation."""
    return number // batch_size if train else -(-number // batch_size)


def _steps_from(order: Arrays, start: jax.Array, count: int) -> Arrays:
    return {k: jax.lax.dynamic_slice_in_dim(v, start, count) for k, v in order.items()}


def _check(split: Split, batch_size: int, sharding: NamedSharding, train: bool) -> None:
    axes = sharding.spec[0] if len(sharding.spec) else ()
    names = (axes,) if isinstance(axes, str) else axes or ()
    devices = int(np.prod([sharding.mesh.shape[name] for name in names]))
    if batch_size < 1 or batch_size % devices:
        raise InputError(f"batch_size={batch_size} must be a multiple of the {devices} devices")
    if len(split) == 0:
        raise InputError("the split has no images")
    if train and batch_size > len(split):
        raise InputError(f"batch_size={batch_size} is larger than the {len(split)} training images")
