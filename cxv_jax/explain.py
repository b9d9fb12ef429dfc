"""Why a model says what it says: the part of an image that counts, and its worst mistakes."""

import heapq
import math
import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from cxv_jax.augment import normalise
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from cxv_jax.inference import Run, predict


class Explanation(NamedTuple):
    """What a model says of a batch of images, and where it looks.

    Attributes:
      classes: the most probable class of each image.
      probabilities: of these classes, calibrated as those of :func:`.inference.predict`.
      grad_cam: what speaks for the class, from 0 to 1 (its largest value) over the map.
      tokens: what each token of the last attention weighs, 1 being the mean; None without attention
        that :class:`cxv_jax.mixers.MultiHeadAttention` makes.
    """

    classes: Int[np.ndarray, " batch"]
    probabilities: Float[np.ndarray, " batch"]
    grad_cam: Float[np.ndarray, "batch map_height map_width"]
    tokens: np.ndarray | None


class Mistake(NamedTuple):
    """An image of a split whose class was not recognised, and how sure the model was of another."""

    probability: float
    row: int
    said: int
    true: int


def explain(run: Run, images: UInt8[np.ndarray, "batch height width 3"]) -> Explanation:
    r"""Explain the most probable class of each image.

    Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2) on the features ``A`` before
    pooling: ``relu(sum_k a_k A_k)`` with ``a_k = mean_xy d logit / d A_k(x, y)``. Token weights:
    see :func:`cxv_jax.attention.token_weights`; of the last attention, the mean over its heads.

    Args:
      run: from :func:`.inference.load_run`.
      images: uint8, of the run's size; a batch that fits into memory.

    Raises:
      InputError: the logits depend on none of the features' places (a class token is all they
        read).
    """
    model, sides = run.model, images.shape[1:3]
    if getattr(model, "remat", "none") != "none":  # What is computed again keeps no record.
        model = model.clone(remat="none")
    logits, cam, kept = _explained(model, *run.scaling, run.variables, jnp.asarray(images))
    probabilities = np.asarray(jax.nn.softmax(logits / run.temperature))
    maps = _as_map(np.asarray(cam), sides)
    if not maps.any():
        raise InputError(
            f"{run.config.model.name}: its head reads the class token alone, so that no place "
            "of the last features counts; there is no such picture of this model"
        )
    maps = maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    return Explanation(probabilities.argmax(1), probabilities.max(1), maps, _tokens(kept, sides))


def mistakes(run: Run, split: Split, most: int) -> list[Mistake]:
    """The most confident mistakes on a split, the surest first; a batch in memory at a time."""
    found: list[Mistake] = []
    size = run.config.eval_batch_size
    for start in range(0, len(split), size):
        rows = np.arange(start, min(start + size, len(split)))
        probabilities, labels = predict(run, np.asarray(split.images[rows])), split.labels[rows]
        said = probabilities.argmax(1)
        wrong = np.flatnonzero(said != labels)
        new = [
            Mistake(float(probabilities[i, said[i]]), int(rows[i]), int(said[i]), int(labels[i]))
            for i in wrong
        ]
        found = heapq.nlargest(most, [*found, *new])
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _explained(
    model: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    variables: Any,
    images: UInt8[Array, "batch height width 3"],
) -> tuple[Array, Array, Any]:
    """Logits, Grad-CAM on the features as they lie, and what the attentions have kept."""
    x = normalise(images, mean, std)
    out: Any = model.apply(variables, x, train=False, mutable=["intermediates", "attention"])
    logits, kept = out
    (features,) = kept["intermediates"]["features"]
    best = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])

    def score(change: Array) -> Array:
        changed = {**variables, "perturbations": {"features": change}}
        found: Any = model.apply(changed, x, train=False)
        return jnp.sum(found * best)

    gradient = jax.grad(score)(jnp.zeros_like(features)).astype(jnp.float32)
    places = tuple(range(1, features.ndim - 1))
    weights = gradient.mean(places, keepdims=True)
    # Tokens without a gradient of their own: only the class token before them counts.
    counts = jnp.any(gradient[:, -1:] != 0) if features.ndim == 3 else True
    cam = nn.relu(jnp.sum(weights * features.astype(jnp.float32), -1)) * counts
    return logits, cam, kept.get("attention", {})


def _tokens(kept: Any, sides: tuple[int, int]) -> np.ndarray | None:
    found = flax.traverse_util.flatten_dict(kept, sep="/")
    if not found:
        return None
    (weights,) = found[max(found, key=_natural)]
    weights = np.asarray(weights).mean(-1)  # [batch, length]
    return _as_map(weights * weights.shape[1], sides)


def _natural(path: str) -> list[int | str]:
    """``block_10`` comes after ``block_9``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _as_map(values: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Values of tokens ``[batch, length]`` in the places of an image of these sides.

    What stands before them (a class token) is left out.
    """
    if values.ndim == 3:
        return values
    length = values.shape[1]
    for tokens in (length, length - 1):
        height = max(round(math.sqrt(tokens * sides[0] / sides[1])), 1)
        if tokens % height == 0:
            return values[:, length - tokens :].reshape(len(values), height, -1)
    raise InputError(f"{length} tokens are no map of an image of {sides[0]} x {sides[1]} pixels")
