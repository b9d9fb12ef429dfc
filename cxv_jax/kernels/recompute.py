"""Recompute in the backward pass, on backends that would rather keep what forward computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def recomputed(saved: Any, gradient: Array) -> Any:
    """Values equal to ``saved`` from which XLA must compute again what follows from them.

    XLA drops optimization barriers early on a CPU; it then finds the same expressions in the
    forward pass and keeps their values, features and tiles included. So there the floats get a
    zero added that only the backward pass knows.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.optimization_barrier(saved)
    zero = 0 * gradient[(0,) * gradient.ndim]

    def mark(x: Array) -> Array:
        return x + zero.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(mark, saved)


def checkpoint(function: Callable[..., Array]) -> Callable[..., Array]:
    """``jax.checkpoint`` for a function of arrays with one result, by :func:`recomputed`."""
    run = jax.custom_vjp(function)

    def backward(arguments: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
        return jax.vjp(function, *recomputed(arguments, gradient))[1](gradient)

    run.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return run
