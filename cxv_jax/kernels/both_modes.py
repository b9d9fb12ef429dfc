"""Rules of differentiation for both modes, with the values that the backward pass keeps chosen.

``jax.custom_vjp`` refuses forward mode; ``jax.custom_jvp`` leaves it to JAX what is kept, and
``jax.custom_derivatives.linear_call`` knows no ``vmap`` and no second derivative. So tangents go
through a primitive that knows its transpose: it keeps the values it is given and nothing else.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cxv_jax.kernels.meshes import as_first, as_types, varying

Rule = Callable[..., Any]


def both_modes(function: Rule, pull: Rule) -> Rule:
    """``function`` with a written-out gradient, of which forward mode works too.

    Reverse mode keeps the operands alone; forward mode differentiates ``function`` itself.

    Args:
      function: of pytrees of arrays, with one array as result; without closed-over arrays.
      pull: ``(operands, gradient) -> gradients``, None for those of what is no float.
    """
    run = jax.custom_jvp(partial(as_first, function))

    def rule(operands: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        result = run(*operands)
        tree: Any = jax.tree.structure(tuple(operands))
        slopes = tree.flatten_up_to(tuple(tangents))
        moving = [i for i, slope in enumerate(slopes) if not isinstance(slope, SymbolicZero)]
        (tangent,) = linear(
            partial(_push, function, moving),
            partial(_pull, pull, moving),
            tuple(operands),
            [slopes[i] for i in moving],
            [result],
        )
        return result, tangent

    run.defjvp(rule, symbolic_zeros=True)
    return lambda *operands: run(*varying(operands))


def _push(function: Rule, moving: list[int], operands: Any, *tangents: Array) -> list[Array]:
    tree: Any
    leaves, tree = jax.tree.flatten(operands)

    def of(*parts: Array) -> Array:
        new = dict(zip(moving, parts, strict=True))
        return function(*tree.unflatten(new.get(i, leaf) for i, leaf in enumerate(leaves)))

    return [jax.jvp(of, [leaves[i] for i in moving], list(tangents))[1]]


def _pull(pull: Rule, moving: list[int], operands: Any, gradient: Array) -> list[Array]:
    tree: Any = jax.tree.structure(operands)
    gradients = tree.flatten_up_to(tuple(pull(operands, gradient)))
    return [gradients[i] for i in moving]


def linear(
    push: Rule, pull: Rule, saved: Any, tangents: Sequence[Array], like: Sequence[Array]
) -> list[Array]:
    """``push(saved, *tangents)``, linear in the tangents, whose transpose is ``pull``.

    Args:
      push: gives a list of arrays; without closed-over arrays.
      pull: ``(saved, *gradients) -> list`` of one gradient for each tangent.
      saved: pytree of arrays, all that is kept for the backward pass.
      tangents: arrays.
      like: arrays of the shapes and types of the results.
    """
    leaves, tree = jax.tree.flatten(saved)
    rules = (partial(_unflat, push, tree), partial(_unflat, pull, tree))
    return _bind(*rules, tuple(jax.typeof(x) for x in like), leaves, tangents)


def _unflat(rule: Rule, tree: Any, leaves: Sequence[Array], args: Sequence[Array]) -> list[Array]:
    return list(rule(tree.unflatten(leaves), *args))


def _bind(
    push: Rule, pull: Rule, results: tuple[Any, ...], saved: Sequence[Any], args: Sequence[Any]
) -> list[Array]:
    rules = dict(push=push, pull=pull, results=results, count=len(saved))
    return list(linear_p.bind(*varying([*saved, *args]), **rules))


def _run(*operands: Array, push: Rule, results: Any, count: int, **_: Any) -> list[Array]:
    return as_types(push, results, tuple(operands[:count]), tuple(operands[count:]))


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], push: Rule, count: int, **rest: Any
) -> tuple[list[Array], list[Array]]:
    call = partial(linear_p.bind, push=push, count=count, **rest)
    moving = [i for i, t in enumerate(tangents[:count]) if not isinstance(t, ad.Zero)]
    terms = []
    if any(not isinstance(t, ad.Zero) for t in tangents[count:]):
        terms.append(call(*primals[:count], *map(ad.instantiate_zeros, tangents[count:])))
    if moving:

        def of(*parts: Array) -> list[Array]:
            new = dict(zip(moving, parts, strict=True))
            leaves = tuple(new.get(i, x) for i, x in enumerate(primals[:count]))
            return _run(*leaves, *primals[count:], push=push, count=count, **rest)

        at, along = ([x[i] for i in moving] for x in (primals, tangents))
        terms.append(jax.jvp(of, at, along)[1])
    return call(*primals), [sum(parts[1:], start=parts[0]) for parts in zip(*terms, strict=True)]


def _transpose(
    gradients: Sequence[Any], *operands: Any, push: Rule, pull: Rule, results: Any, count: int
) -> list[Any]:
    saved, args = operands[:count], operands[count:]
    unknown = [ad.is_undefined_primal(x) for x in args]
    like = tuple(x.aval if u else jax.typeof(x) for x, u in zip(args, unknown, strict=True))
    full = [ad.instantiate_zeros(g) for g in gradients]
    found = _bind(pull, push, like, saved, full)
    return [None] * count + [g if u else None for g, u in zip(found, unknown, strict=True)]


def _batch(
    operands: Sequence[Array], axes: Sequence[Any], push: Rule, pull: Rule, results: Any, count: int
) -> tuple[list[Array], list[int]]:
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)

    def front(x: Array, axis: Any) -> Array:
        return jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    saved, kept = tuple(operands[:count]), tuple(axes[:count])
    args = tuple(front(x, a) for x, a in zip(operands[count:], axes[count:], strict=True))
    one = partial(as_types, push, results)
    push, pull = (jax.vmap(rule, (kept, 0), axis_size=size) for rule in (one, pull))
    results = tuple(jax.make_jaxpr(push)(saved, args).out_avals)
    return _bind(push, pull, results, saved, args), [0] * len(results)


linear_p = Primitive("linear_with_transpose")
linear_p.multiple_results = True
linear_p.def_impl(_run)
linear_p.def_abstract_eval(lambda *_, results, **__: list(results))
mlir.register_lowering(linear_p, mlir.lower_fun(_run, multiple_results=True))
ad.primitive_jvps[linear_p] = _jvp
ad.primitive_transposes[linear_p] = _transpose
batching.primitive_batchers[linear_p] = _batch
