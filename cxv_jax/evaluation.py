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
from jaxtyping import Array, Float, Int

from cxv_jax import losses, metrics, sharding, step
from cxv_jax.augment import normalise
from cxv_jax.calibration import Reliability, log_probabilities
from cxv_jax.data.loader import Loader
from cxv_jax.figures import ClassFigures, auroc
from cxv_jax.records import ClassRecord

Results = dict[str, dict[str, Array]]  # Sums, and what is known of every image.
Scaling = tuple[tuple[float, ...], tuple[float, ...]]  # Mean and deviation a channel, in 0..1.


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Exact results over the ``count`` images of a split.

    ``top1``, ``top5`` are fractions, ``loss`` is in nats; ``confusion[i, j]`` counts the images of
    class ``i`` that were taken for class ``j``. ``labels`` and ``logits`` are those of every image,
    in the order of the split.
    """

    count: int
    top1: float
    top5: float
    loss: float
    confusion: Int[np.ndarray, "classes classes"]
    labels: Int[np.ndarray, " image"]
    logits: Float[np.ndarray, "image classes"]

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

    @property
    def auroc(self) -> Float[np.ndarray, " classes"]:
        """Of each class against the rest, by its probability."""
        return auroc(np.exp(log_probabilities(self.logits)), self.labels)

    def reliability(self, temperature: float = 1.0) -> Reliability:
        """Images by how sure the network is, its logits divided by ``temperature``."""
        return Reliability.of(self.logits, self.labels, temperature)

    def records(self, names: Sequence[str]) -> dict[str, Any]:
        """What a summary has of test besides means."""
        rows = self.class_records(names)
        return dict(test_count=self.count, per_class=rows, confusion=self.confusion.tolist())

    def class_records(self, names: Sequence[str]) -> list[ClassRecord]:
        """A record of every class, by their names in the order of the logits."""
        found = self.by_class
        counts = zip(names, found.counts.tolist(), self.class_hits.tolist(), strict=True)
        shares = zip(found.precision, found.recall, self.auroc, strict=True)
        return [ClassRecord(*own, *map(known, of)) for own, of in zip(counts, shares, strict=True)]


class Evaluator:
    """``(variables, loader) -> Evaluation`` over the loader's whole split.

    Sums over images, divided once: the same for any batch size and number of devices, up to
    rounding in the loss. Each loader's step compiles once. With ``flip`` an image's logits are the
    mean of its own and those of its mirror image.
    """

    def __init__(self, model: nn.Module, scaling: Scaling, mesh: Mesh, *, flip: bool = False):
        @partial(jax.jit, static_argnums=0, out_shardings=sharding.replicated(mesh))
        def results_of(fetch: step.Fetch, variables: Any, data: Any, feed: Any) -> Results:
            def one(carry: None, variables: Any, batch: step.Batch) -> tuple[None, Results]:
                logits = logits_of(model, scaling, variables, batch["image"], flip)
                images = {"logits": logits, "label": batch["label"], "mask": batch["mask"]}
                return carry, {"sums": batch_sums(logits, batch), "images": images}

            return step.many(one, fetch, _joined)(None, variables, data, feed)[1]

        self._results_of = results_of

    def __call__(self, variables: Any, loader: Loader) -> Evaluation:
        """Evaluate."""
        feeds = loader.epoch(0)
        calls = [self._results_of(loader.fetch, variables, loader.data, feed) for _, feed in feeds]
        results = jax.device_get(calls)
        sums, images = ([result[part] for result in results] for part in ("sums", "images"))
        confusion = np.stack([each["confusion"] for each in sums]).sum(0, dtype=np.int64)
        total = metrics.total(sums)
        real = np.concatenate([each["mask"] for each in images]) > 0  # The rest is padding.
        labels, logits = (np.concatenate([x[k] for x in images])[real] for k in ("label", "logits"))
        return Evaluation(
            total["count"],
            **metrics.means(total),
            confusion=confusion,
            labels=labels,
            logits=logits,
        )

    def lower(self, variables: Any, loader: Loader) -> Any:
        """The step, ready to compile; ``variables`` may be their shapes, types and places."""
        feed = next(iter(loader.epoch(0)))[1]
        return self._results_of.lower(loader.fetch, variables, loader.data, feed)


def logits_of(
    model: nn.Module, scaling: Scaling, variables: Any, images: Array, flip: bool
) -> Float[Array, "batch classes"]:
    """Without augmentation; with ``flip`` the mean over the images and their mirror images."""

    def of(images: Array) -> Any:
        return model.apply(variables, normalise(images, *scaling), train=False)

    return (of(images) + of(images[:, :, ::-1])) / 2 if flip else of(images)


def batch_sums(logits: Float[Array, "batch classes"], batch: step.Batch) -> metrics.Sums:
    """Sums over one batch (with its ``mask``), without label smoothing.

    Those of :func:`metrics.batch_sums`, and ``confusion`` int32 ``[classes, classes]``.
    """
    labels, classes = batch["label"], logits.shape[-1]
    example_losses = losses.cross_entropy(logits, jax.nn.one_hot(labels, classes))
    sums = metrics.batch_sums(logits, labels, example_losses, batch["mask"])
    cells = jnp.zeros((classes, classes), jnp.int32).at[labels, jnp.argmax(logits, -1)]
    return {**sums, "confusion": cells.add(batch["mask"].astype(jnp.int32))}


def _joined(stacked: Results) -> Results:
    """Of several steps: sums added up, images one after the other."""
    images = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked["images"])
    return {"sums": step.added(stacked["sums"]), "images": images}


def known(share: float) -> float | None:
    """A figure for JSON: None in place of NaN."""
    return None if math.isnan(share) else float(share)
