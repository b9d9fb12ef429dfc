"""The one evaluation: exact sums over every image of a split, and the confusion matrix."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from cxv_jax import losses, metrics, sharding, step
from cxv_jax.augment import normalise
from cxv_jax.data.loader import Loader
from cxv_jax.figures import ClassFigures
from cxv_jax.records import ClassRecord

Scaling = tuple[tuple[float, ...], tuple[float, ...]]  # Mean and deviation a channel, in 0..1.


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Exact results over the ``count`` images of a split.

    ``top1``, ``top5`` are fractions, ``loss`` is in nats; ``confusion[i, j]`` counts the images of
    class ``i`` that were taken for class ``j``.
    """

    count: int
    top1: float
    top5: float
    loss: float
    confusion: Int[np.ndarray, "classes classes"]

    @property
    def class_counts(self) -> Int[np.ndarray, " classes"]:
        """Images of each class."""
        return self.confusion.sum(1)

    @property
    def class_hits(self) -> Int[np.ndarray, " classes"]:
        """Images of each class that were recognised."""
        return self.confusion.diagonal()

    @property
    def by_class(self) -> ClassFigures:
        """Recall, precision and F1 of each class."""
        return ClassFigures.of(self.confusion)

    def class_records(self, names: Sequence[str]) -> list[ClassRecord]:
        """A record of every class, by their names in the order of the logits."""
        found = self.by_class
        columns = (found.counts, self.class_hits, found.precision, found.recall)
        return [
            ClassRecord(name, int(count), int(hits), _known(precision), _known(recall))
            for name, count, hits, precision, recall in zip(names, *columns, strict=True)
        ]


class Evaluator:
    """``(variables, loader) -> Evaluation`` over the loader's whole split.

    Sums over images, divided once: the same for any batch size and number of devices, up to
    rounding in the loss. Each loader's step compiles once.
    """

    def __init__(self, model: nn.Module, scaling: Scaling, mesh: Mesh):
        @partial(jax.jit, static_argnums=0, out_shardings=sharding.replicated(mesh))
        def sums_of(fetch: step.Fetch, variables: Any, data: Any, feed: Any) -> metrics.Sums:
            def one(carry: None, variables: Any, batch: step.Batch) -> tuple[None, metrics.Sums]:
                return carry, batch_sums(model, scaling, variables, batch)

            return step.many(one, fetch)(None, variables, data, feed)[1]

        self._sums_of = sums_of

    def __call__(self, variables: Any, loader: Loader) -> Evaluation:
        """Evaluate."""
        feeds = loader.epoch(0)
        calls = [self._sums_of(loader.fetch, variables, loader.data, feed) for _, feed in feeds]
        batches = jax.device_get(calls)
        confusion = np.stack([batch["confusion"] for batch in batches]).sum(0, dtype=np.int64)
        total = metrics.total(batches)
        return Evaluation(total["count"], **metrics.means(total), confusion=confusion)

    def lower(self, variables: Any, loader: Loader) -> Any:
        """The step, ready to compile; ``variables`` may be their shapes, types and places."""
        feed = next(iter(loader.epoch(0)))[1]
        return self._sums_of.lower(loader.fetch, variables, loader.data, feed)


def batch_sums(
    model: nn.Module, scaling: Scaling, variables: Any, batch: step.Batch
) -> metrics.Sums:
    """Sums over one batch (with its ``mask``), without augmentation or label smoothing.

    Those of :func:`metrics.batch_sums`, and ``confusion`` int32 ``[classes, classes]``.
    """
    logits: Any = model.apply(variables, normalise(batch["image"], *scaling), train=False)
    labels, classes = batch["label"], logits.shape[-1]
    example_losses = losses.cross_entropy(logits, jax.nn.one_hot(labels, classes))
    sums = metrics.batch_sums(logits, labels, example_losses, batch["mask"])
    cells = jnp.zeros((classes, classes), jnp.int32).at[labels, jnp.argmax(logits, -1)]
    return {**sums, "confusion": cells.add(batch["mask"].astype(jnp.int32))}


def _known(share: float) -> float | None:
    return None if math.isnan(share) else float(share)
