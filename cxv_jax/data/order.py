"""Which example is in which step: the one order that every loader follows."""

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


def natural(
    number: int, batch_size: int
) -> tuple[Int[np.ndarray, "step batch"], Bool[np.ndarray, "step batch"]]:
    """The order of an evaluation, padded with example 0, and which entries are real."""
    count = steps(number, batch_size, train=False)
    index = np.arange(count * batch_size, dtype=np.int32).reshape(count, batch_size)
    return np.where(index < number, index, 0), index < number
