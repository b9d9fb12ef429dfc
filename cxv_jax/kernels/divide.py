"""Division that keeps its quotient, and gives 0 where there is nothing to divide by."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def divide(numerator: Array, denominator: Array, dtype: Any = jnp.float32) -> Array:
    """``numerator / denominator``, and 0 where no key was left to attend to.

    Keeps the quotient in ``dtype`` for the backward pass, which the next product keeps anyway,
    and not the numerator.
    """
    return (numerator / jnp.where(denominator == 0, 1, denominator)).astype(dtype)


def _divide_forward(
    numerator: Array, denominator: Array, dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    quotient = divide(numerator, denominator, dtype)
    return quotient, (quotient, denominator)


def _divide_backward(
    dtype: Any, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    quotient, denominator = saved
    scaled = divide(gradient.astype(jnp.float32), denominator)
    summed = tuple(i for i, n in enumerate(denominator.shape) if n == 1)
    # An axis of 1 in both is summed too, which changes nothing.
    return scaled, -(scaled * quotient.astype(jnp.float32)).sum(summed, keepdims=True)


divide.defvjp(_divide_forward, _divide_backward)
