"""The one place that asks for which platform a program is lowered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax

from cxv_jax.kernels.both_modes import both_modes

_PLAIN = ContextVar("plain", default=False)


@contextmanager
def without_choice() -> Iterator[None]:
    """What is traced inside has the default formulations alone, for those who read JAX's traces.

    JAX remembers traces, so what it has is forgotten at both ends: later calls compile again.
    """
    jax.clear_caches()
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)
        jax.clear_caches()


def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """``cpu(*operands)`` where the program is lowered for a CPU, else ``default(*operands)``.

    Decided when JAX lowers the program, so one exported from a CPU for a GPU holds no trace of
    ``cpu``; one for several platforms holds both and a switch. Both are traced.

    Args:
      operands: pytrees of arrays, of which no gradient is taken: see :func:`formulations`.
      cpu: the formulation for CPUs.
      default: the one for all other platforms; its results have the same shapes and types.
    """
    if _PLAIN.get():
        return default(*operands)
    return jax.lax.platform_dependent(*operands, cpu=cpu, default=default)


def vjp(function: Callable[..., Any], operands: tuple[Any, ...], gradient: Any) -> Any:
    """Gradients with respect to the operands; None for those that are no floats."""
    gradients = jax.vjp(function, *operands)[1](gradient)
    return jax.tree.map(lambda x: None if x.dtype == jax.dtypes.float0 else x, gradients)


def formulations(
    cpu: Callable[..., Any],
    default: Callable[..., Any],
    cpu_vjp: Callable[..., Any] = vjp,
    default_vjp: Callable[..., Any] = vjp,
) -> Callable[..., Any]:
    """A function of arrays as :func:`by_platform`, with each platform's own gradient.

    It keeps its operands alone: JAX's gradient of a choice would keep what any branch needs.

    Args:
      cpu: the formulation for CPUs.
      default: the one for all other platforms.
      cpu_vjp: ``(cpu, operands, gradient) -> gradients``.
      default_vjp: the same of ``default``.
    """

    def forward(*operands: Any) -> Any:
        same = cpu is default
        return default(*operands) if same else by_platform(*operands, cpu=cpu, default=default)

    def backward(operands: tuple[Any, ...], gradient: Any) -> Any:
        branches = dict(cpu=partial(cpu_vjp, cpu), default=partial(default_vjp, default))
        return by_platform(operands, gradient, **branches)

    return both_modes(forward, backward)
