"""Recompute in the backward pass, on platforms that would rather keep what forward computed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from cxv_jax.kernels.both_modes import both_modes
from cxv_jax.kernels.dispatch import by_platform, formulations, vjp


def recomputed(saved: Any, gradient: Array) -> Any:
    """Values equal to ``saved`` from which XLA must compute again what follows from them.

    XLA drops optimization barriers early on a CPU; it then finds the same expressions in the
    forward pass and keeps their values, features and tiles included. So there the floats get a
    zero added that only the backward pass knows.
    """
    return by_platform(
        saved, gradient, cpu=_plus_zero, default=lambda x, _: jax.lax.optimization_barrier(x)
    )


def _plus_zero(saved: Any, gradient: Array) -> Any:
    # A sum ends a fused loop. One element would be computed again in every turn of the loop, from
    # whatever leads to the gradient, and XLA then leaves the loop unvectorised.
    some = gradient[(0,) * (gradient.ndim - 1)].sum()
    zero = jnp.where(jnp.isfinite(some), 0 * some, 0)  # A NaN belongs to its example alone.
    return jax.tree.map(lambda x: x + zero.astype(x.dtype) if _is_float(x) else x, saved)


def checkpoint(
    function: Callable[..., Array],
    apart: bool = True,
    cpu: Callable[..., Array] | None = None,
) -> Callable[..., Array]:
    """``jax.checkpoint`` for a function of arrays with one result, on CPUs too.

    Apart, the backward pass on a CPU runs in a branch that is always taken, which XLA does not
    know. It compiles a branch as a program of its own: nothing in it is found in the forward pass
    and kept, and the zeros that its loops start from are not held from the start of the step.
    Its sums may then round differently. Otherwise it is :func:`recomputed` that saves the memory,
    and the gradients are those of ``function`` bit for bit.

    Args:
      function: of arrays, without closed-over ones.
      apart: see above.
      cpu: computes the same on CPUs, apart; None: ``function`` does.
    """
    if apart:
        return formulations(cpu or function, function, _vjp_in_a_branch, _vjp_after_a_barrier)

    def backward(arguments: Any, gradient: Array) -> Any:
        return vjp(function, recomputed(arguments, gradient), gradient)

    return both_modes(function, backward)


def _vjp_after_a_barrier(function: Callable[..., Array], arguments: Any, gradient: Array) -> Any:
    return vjp(function, jax.lax.optimization_barrier(arguments), gradient)


def _vjp_in_a_branch(function: Callable[..., Array], arguments: Any, gradient: Array) -> Any:
    first = gradient[(0,) * gradient.ndim]
    always = jnp.isnan(first) | (first <= jnp.inf)  # A NaN belongs to its example alone.
    return jax.lax.cond(always, partial(vjp, function), _lost, arguments, gradient)


def _lost(arguments: tuple[Any, ...], gradient: Array) -> tuple[Any, ...]:
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if _is_float(x) else None, arguments)


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
