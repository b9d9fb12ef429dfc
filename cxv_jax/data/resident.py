"""The loader for a set that fits in accelerator memory: nothing is copied during an epoch."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.data import order
from cxv_jax.data.splits import Split

Arrays = dict[str, jax.Array]


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
        order_kind: str = "shuffled",
        steps_per_call: int = 1,
    ):
        mesh, spec = batch_sharding.mesh, batch_sharding.spec
        self._copied = NamedSharding(mesh, P())
        self._batch_sharding = batch_sharding
        self._seed = seed
        self._steps_per_call = steps_per_call
        self.steps_per_epoch = order.steps(len(split), batch_size, train)
        images = split.images[np.arange(len(split))]
        self.data = {"image": self._put(images), "label": self._put(split.labels)}
        self._slice = jax.jit(
            _steps_from, static_argnames="count", out_shardings=NamedSharding(mesh, P(None, *spec))
        )
        self._natural: Arrays = {}
        if train:
            self._draw = order.drawing(split.labels, batch_size, order_kind, self._put)
        else:
            index, real = order.natural(len(split), batch_size)
            self._natural = {"index": self._put(index), "mask": self._put(real.astype(np.float32))}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Arrays]]:
        """Yield ``(k, {"index": int32 [k, batch]})``, with ``"mask"`` in evaluation."""
        feed = self._natural or {"index": self._shuffled(epoch)}
        while start < self.steps_per_epoch:
            left = self.steps_per_epoch - start
            count = self._steps_per_call if left >= self._steps_per_call else 1
            yield count, self._slice(feed, self._put(np.int32(start)), count=count)
            start += count

    def fetch(self, data: Arrays, feed: Arrays) -> Arrays:
        """Gather one step's examples from the split; for jit."""
        taken = {name: value[feed["index"]] for name, value in data.items()}
        masked = {"mask": feed["mask"]} if "mask" in feed else {}
        return jax.lax.with_sharding_constraint({**taken, **masked}, self._batch_sharding)

    def _shuffled(self, epoch: int) -> jax.Array:
        return self._draw(self._put(np.int32(self._seed)), self._put(np.int32(epoch)))

    def _put(self, value: np.ndarray | np.generic) -> jax.Array:
        """Copy to every device, explicitly: the loop runs under a transfer guard."""
        return jax.make_array_from_process_local_data(self._copied, value)


def _steps_from(feed: Arrays, start: jax.Array, count: int) -> Arrays:
    return {k: jax.lax.dynamic_slice_in_dim(v, start, count) for k, v in feed.items()}
