"""JAX's random bits, hashed in one pass.

On CPUs JAX rolls the rounds of its hash into a loop whose rotations are read from memory: each draw
of a program costs over a second of compilation, and five passes over the data. Written out, the
same bits compile about twenty times and run about four times as fast.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import random as extend

from cxv_jax.kernels.dispatch import by_platform

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def key(seed: int | Array) -> Array:
    """A key whose draws are those of ``jax.random.key(seed, impl="threefry2x32")``, bit for bit.

    Everything in ``jax.random`` takes it, Flax and Optax with it; keys split and folded from it are
    of its kind. Only the cost differs.
    """
    return jax.random.key(seed, impl=IMPLEMENTATION)


def threefry_2x32(key1: Array, key2: Array, x1: Array, x2: Array) -> tuple[Array, Array]:
    """Threefry with 20 rounds: uint32 counters ``(x1, x2)`` under a key, of shapes that broadcast.

    Source: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.
    """
    keys = (key1, key2, key1 ^ key2 ^ PARITY)
    x1, x2 = x1 + keys[0], x2 + keys[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x1 = x1 + x2
            x2 = x1 ^ (x2 << np.uint32(rotation) | x2 >> np.uint32(32 - rotation))
        x1 = x1 + keys[(i + 1) % 3]
        x2 = x2 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x1, x2


def _seed(seed: Array) -> Array:
    wide = seed.dtype.itemsize == 8
    high = lax.shift_right_logical(seed, seed.dtype.type(32)) if wide else jnp.zeros_like(seed)
    return jnp.stack([high.astype(jnp.uint32), seed.astype(jnp.uint32)])


def _fold_in(key: Array, data: Array) -> Array:
    data = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(threefry_2x32(key[0], key[1], jnp.zeros_like(data), data))


def _counted(key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Two words for each entry of ``shape``, hashed from its place in row-major order."""
    if (size := math.prod(shape)) >= 2**32:
        raise ValueError(f"cannot draw {size} numbers at once; the most are {2**32 - 1}")
    places = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):  # Each device of a mesh counts its own part.
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        places = places + lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return threefry_2x32(key[0], key[1], jnp.zeros_like(places), places)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_counted(key, shape), axis=-1)


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    dtype = np.dtype(f"uint{bit_width}")
    draw = partial(_drawn, dtype, shape)
    return by_platform(key, cpu=partial(_apart, draw, dtype, shape), default=draw)


def _apart(
    draw: Callable[[Array], Array], dtype: np.dtype, shape: tuple[int, ...], key: Array
) -> Array:
    """``draw(key)`` from a branch that is always taken, which XLA does not know.

    It would join the hash, cheap operations all, to every loop that reads the words: once for each
    pixel of an image that is turned by one angle, for each of the 32 elements that take a bit.
    """

    def never(key: Array) -> Array:  # Made of the key, so that it has the draw's place on a mesh.
        return jnp.broadcast_to(key[0].astype(dtype), shape)

    return lax.cond(lax.population_count(key[0]) <= 32, draw, never, key)


def _drawn(dtype: np.dtype, shape: tuple[int, ...], key: Array) -> Array:
    high, low = _counted(key, shape)
    if dtype == jnp.uint64:
        return high.astype(dtype) << dtype.type(32) | low.astype(dtype)
    return (high ^ low).astype(dtype)


IMPLEMENTATION = extend.define_prng_impl(
    key_shape=(2,),
    seed=jax.jit(_seed),
    split=partial(jax.jit, static_argnums=1)(_split),
    random_bits=partial(jax.jit, static_argnums=(1, 2))(_random_bits),
    fold_in=jax.jit(_fold_in),
    name="threefry2x32_one_pass",
    tag="fry1",
)
