"""Metrics as sums over examples, so that any split into batches gives the same result."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

Sums = dict[str, Array]


def batch_sums(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    losses: Float[Array, "batch"],
    mask: Float[Array, "batch"] | None = None,
) -> Sums:
    """Sums of loss, top-1 and top-5 hits and the number of examples of one batch.

    Args:
      logits: ``[batch, classes]``.
      labels: ``[batch]``.
      losses: ``[batch]``.
      mask: 1 for examples that count, 0 for padding; None: all count.

    Returns:
      ``{"loss": float32, "top1", "top5", "count": int32}``; top-5 is top-k with at most the number
      of classes.
    """
    counts = jnp.ones(labels.shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    _, ranked = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (ranked == labels[:, None]).astype(jnp.int32) * counts[:, None]
    # Not a product: padding may hold a loss that is not finite.
    losses = jnp.where(counts > 0, losses, 0)
    return {
        "loss": losses.sum(),
        "top1": hits[:, 0].sum(),
        "top5": hits.sum(),
        "count": counts.sum(),
    }


def total(sums: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over several batches, on the host: counts stay exact, losses add up in float64."""
    names = ("loss", "top1", "top5", "count")
    first = {name: float if name == "loss" else int for name in names}
    return {name: sum(first[name](each[name]) for each in sums) for name in names}


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """``loss``, ``top1`` and ``top5`` per example, as Python floats."""
    count = max(int(sums["count"]), 1)
    return {name: float(sums[name]) / count for name in ("loss", "top1", "top5")}
