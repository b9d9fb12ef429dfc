"""Division that keeps its quotient, and gives 0 where there is nothing to divide by."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cxv_jax.kernels.both_modes import linear


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def divide(numerator: Array, denominator: Array, dtype: Any = jnp.float32) -> Array:
    """``numerator / denominator``, and 0 where no key was left to attend to.

    Keeps the quotient in ``dtype`` for the backward pass, which the next product keeps anyway,
    and not the numerator.
    """
    return (numerator / jnp.where(denominator == 0, 1, denominator)).astype(dtype)


@divide.defjvp
def _rule(dtype: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    quotient = divide(*primals, dtype)
    rules = partial(_push, dtype), _pull
    return quotient, linear(*rules, (quotient, primals[1]), tangents, [quotient])[0]


def _push(dtype: Any, saved: Any, d_numerator: Array, d_denominator: Array) -> list[Array]:
    quotient, denominator = saved
    return [divide(d_numerator - quotient.astype(jnp.float32) * d_denominator, denominator, dtype)]


def _pull(saved: Any, gradient: Array) -> list[Array]:
    quotient, denominator = saved
    scaled = divide(gradient.astype(jnp.float32), denominator)
    summed = tuple(i for i, n in enumerate(denominator.shape) if n == 1)
    # An axis of 1 in both is summed too, which changes nothing.
    return [scaled, -(scaled * quotient.astype(jnp.float32)).sum(summed, keepdims=True)]
