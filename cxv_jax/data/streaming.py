"""The loader for a set that does not fit in accelerator memory: Grain reads ahead of the device."""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from cxv_jax.data import order
from cxv_jax.data.splits import Split

Arrays = dict[str, jax.Array]
Element = TypeVar("Element")


class StreamingLoader:
    """Batches read by Grain in threads or worker processes, one batch ahead on the device.

    Each process reads only the rows of a batch that its own devices hold. What Grain iterates over
    are whole batches, so that pixels in memory or on disk are gathered by one indexing operation.
    Worker processes start anew every epoch (about 2 s) and get their own copy of pixels that are in
    memory; they pay for sets of image files, where decoding is the work.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        batch_sharding: NamedSharding,
        train: bool,
        order_kind: str = "shuffled",
        workers: int = 0,
    ):
        self._split, self._batch_size, self._train = split, batch_size, train
        self._seed, self._workers = np.int32(seed), workers
        self._sharding = NamedSharding(batch_sharding.mesh, P(None, *batch_sharding.spec))
        local = batch_sharding.addressable_devices_indices_map((batch_size,)).values()
        rows = [np.arange(batch_size)[index] for index in local if index is not None]
        self._rows = np.unique(np.concatenate(rows))
        self.data: Arrays = {}
        self.steps_per_epoch = order.steps(len(split), batch_size, train)
        if train:
            self._draw = order.drawing(split.labels, batch_size, order_kind, jax.device_put)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Arrays]]:
        """Yield ``(1, {"image": [1, batch, ...], "label"})``, with ``"mask"`` in evaluation."""
        index, mask = self._order(epoch)
        here = (slice(start, None), self._rows)
        source = Batches(self._split, index[here], None if mask is None else mask[here])
        feeds = (self._put(batch) for batch in _read(source, self._workers))
        for feed in _one_ahead(feeds):
            yield 1, feed

    def fetch(self, data: Arrays, feed: Arrays) -> Arrays:
        """One step of a feed is the batch already."""
        return feed

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        if not self._train:
            index, real = order.natural(len(self._split), self._batch_size)
            return index, real.astype(np.float32)
        return jax.device_get(self._draw(*jax.device_put((self._seed, np.int32(epoch))))), None

    def _put(self, batch: dict[str, np.ndarray]) -> Arrays:
        put = jax.make_array_from_process_local_data
        return {name: put(self._sharding, value[None]) for name, value in batch.items()}


class Batches:
    """Step number to batch, as a random-access source for Grain."""

    def __init__(
        self,
        split: Split,
        index: Int[np.ndarray, "step batch"],
        mask: Float[np.ndarray, "step batch"] | None,
    ):
        self._split, self._index, self._mask = split, index, mask

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._index)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Read one batch: ``image``, ``label`` and, if there is one, ``mask``."""
        index = self._index[step]
        mask = {} if self._mask is None else {"mask": self._mask[step]}
        return {"image": self._split.images[index], "label": self._split.labels[index], **mask}


def _read(source: Batches, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """All batches in order, several being read at a time."""
    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain refuses to start workers before that.
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(batches)


def _one_ahead(items: Iterator[Element]) -> Iterator[Element]:
    """The same items, each asked for before its predecessor is handed out."""
    waiting = deque(itertools.islice(items, 1))
    for item in items:
        waiting.append(item)
        yield waiting.popleft()
    yield from waiting
