"""What JAX cannot derive of custom rules and loops on many devices.

Inside ``jax.shard_map`` plain operations vary over the axes that any operand varies over, and under
a mesh of Explicit axes they have shardings; a custom rule has to say both. Without a mesh all
functions here leave everything as it is.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes


def varying(tree: Any) -> Any:
    """The arrays, each varying over all axes of ``shard_map`` that any of them varies over."""
    axes = set[Any]().union(*(_axes(jax.typeof(x)) for x in jax.tree.leaves(tree)))
    return jax.tree.map(partial(_vary, axes), tree)


def _axes(kind: Any) -> set[Any]:
    return set(kind.manual_axis_type.varying)


def _vary(axes: set[Any], x: Array) -> Array:
    missing = tuple(sorted(axes - _axes(jax.typeof(x)), key=str))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def as_first(function: Callable[..., Array], *operands: Any) -> Array:
    """``function(*operands)``, split over devices as its first operand, where the sizes agree.

    XLA decides what happens inside: JAX would ask how to split the result of each product.
    """
    if not (mesh := _mesh_of_split(operands)):
        return function(*operands)
    first = jax.typeof(jax.tree.leaves(operands)[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
    sizes = jax.eval_shape(function, *shapes).shape
    axes = zip(first.sharding.spec, first.shape, sizes, strict=False)
    spec = PartitionSpec(*(s if n == m else None for s, n, m in axes))
    return _by_xla(function, operands, mesh, NamedSharding(mesh, spec))


def as_types(
    function: Callable[..., list[Array]], types: Sequence[Any], *operands: Any
) -> list[Array]:
    """``function(*operands)``, a list of arrays, split and varying as these types say."""
    if mesh := _mesh_of_split(operands):
        shardings = [NamedSharding(mesh, kind.sharding.spec) for kind in types]
        results = _by_xla(function, operands, mesh, shardings)
    else:
        results = function(*operands)
    return [_vary(_axes(kind), x) for kind, x in zip(types, results, strict=True)]


def _mesh_of_split(operands: Any) -> Any:
    """The mesh over whose Explicit axes any array is split, else None."""
    shardings = (jax.typeof(x).sharding for x in jax.tree.leaves(operands))
    return next((s.mesh for s in shardings if any(s.spec)), None)


def _by_xla(function: Callable[..., Any], operands: Any, mesh: Any, results: Any) -> Any:
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in kinds if kind == AxisType.Explicit)
    return auto_axes(function, axes=explicit, out_sharding=results)(*operands)
