"""Which example is in which step: the one order that every loader follows."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int


def steps(number: int, batch_size: int, train: bool) -> int:
    """Whole batches in training, all that are needed in evaluation."""
    return number // batch_size if train else -(-number // batch_size)


@partial(jax.jit, static_argnames=("number", "batch_size"))
def shuffled(
    seed: Int[Array, ""], epoch: Int[Array, ""], number: int, batch_size: int
) -> Int[Array, "step batch"]:
    """Draw the order of a training epoch, without the incomplete last batch.

    ``permutation(fold_in(key(seed), epoch), number)``, with Threefry whatever JAX's default is:
    the same on every device and for every version.
    """
    rng = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
    order = jax.random.permutation(rng, number).astype(jnp.int32)
    count = steps(number, batch_size, train=True)
    return order[: count * batch_size].reshape(count, batch_size)


@partial(jax.jit, static_argnames="batch_size")
def balanced(
    seed: Int[Array, ""],
    epoch: Int[Array, ""],
    labels: Int[Array, " number"],
    counts: Int[Array, " classes"],
    batch_size: int,
) -> Int[Array, "step batch"]:
    """Draw an epoch as long as :func:`shuffled`'s in which all classes are equally frequent.

    Of ``counts[c]`` examples of class ``c`` an epoch has ``number / classes``, within one: a random
    choice of a common class, all of a rare one equally often, within one.

    Args:
      seed: of all epochs.
      epoch: which.
      labels: of the examples.
      counts: examples of each class that has any, by rising label.
      batch_size: the incomplete last batch is left out.
    """
    rng = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
    within, across = jax.random.split(rng)
    number, classes = len(labels), len(counts)
    rows = jnp.lexsort((jax.random.permutation(within, number), labels))  # Class after class.
    place = jax.random.permutation(across, number)
    turn, label = place // classes, (place + epoch) % classes
    order = rows[(jnp.cumsum(counts) - counts)[label] + turn % counts[label]].astype(jnp.int32)
    count = steps(number, batch_size, train=True)
    return order[: count * batch_size].reshape(count, batch_size)


def drawing(
    labels: Int[np.ndarray, " number"], batch_size: int, kind: str, put: Callable[..., jax.Array]
) -> Callable[[jax.Array, jax.Array], Int[Array, "step batch"]]:
    """What draws an epoch's order from seed and epoch; ``kind`` is ``shuffled`` or ``balanced``."""
    if kind == "shuffled":
        return partial(shuffled, number=len(labels), batch_size=batch_size)
    found = np.bincount(labels).astype(np.int32)
    counts = put(found[found > 0])
    return partial(balanced, labels=put(labels), counts=counts, batch_size=batch_size)


def natural(
    number: int, batch_size: int
) -> tuple[Int[np.ndarray, "step batch"], Bool[np.ndarray, "step batch"]]:
    """The order of an evaluation, padded with example 0, and which entries are real."""
    count = steps(number, batch_size, train=False)
    index = np.arange(count * batch_size, dtype=np.int32).reshape(count, batch_size)
    return np.where(index < number, index, 0), index < number
