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
    # A sum ends a fused loop. One element would be computed again in every turn of the loop, from
    # whatever leads to the gradient, and XLA then leaves the loop unvectorised.
    zero = 0 * gradient[(0,) * (gradient.ndim - 1)].sum()

    def mark(x: Array) -> Array:
        return x + zero.astype(x.dtype) if _is_float(x) else x

    return jax.tree.map(mark, saved)


def checkpoint(function: Callable[..., Array], apart: bool = True) -> Callable[..., Array]:
    """``jax.checkpoint`` for a function of arrays with one result, on CPUs too.

    Apart, the backward pass on a CPU runs in a branch that is always taken, which XLA does not
    know. It compiles a branch as a program of its own: nothing in it is found in the forward pass
    and kept, and the zeros that its loops start from are not held from the start of the step.
    Its sums may then round differently. Otherwise it is :func:`recomputed` that saves the memory,
    and the gradients are those of ``function`` bit for bit.
    """
    run = jax.custom_vjp(function)

    def backward(arguments: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
        if jax.default_backend() != "cpu" or not apart:
            return jax.vjp(function, *recomputed(arguments, gradient))[1](gradient)
        first = gradient[(0,) * gradient.ndim]  # Equals itself; a NaN makes all gradients NaN.
        return jax.lax.cond(first == first, again, lost, arguments, gradient)

    def again(arguments: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
        gradients = jax.vjp(function, *arguments)[1](gradient)
        return jax.tree.map(lambda x: None if x.dtype == jax.dtypes.float0 else x, gradients)

    def lost(arguments: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
        return jax.tree.map(
            lambda x: jnp.full_like(x, jnp.nan) if _is_float(x) else None, arguments
        )

    run.defvjp(lambda *arguments: (function(*arguments), arguments), backward)
    return run


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
