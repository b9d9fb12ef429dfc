"""The device mesh and where arrays live on it."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.errors import InputError


def create_mesh(fsdp: int = 1, devices: int | None = None) -> Mesh:
    """The first ``devices`` devices, else all, as a ``data x fsdp`` mesh.

    Both axes split the batch; ``fsdp`` also splits parameters and optimizer state.

    Raises:
      InputError: if ``fsdp`` does not divide the number of devices.
    """
    count = devices or jax.device_count()
    if fsdp < 1 or count % fsdp:
        raise InputError(f"fsdp={fsdp} must divide the number of devices, {count}")
    shape, names, types = (count // fsdp, fsdp), ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, names, axis_types=types, devices=jax.devices()[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the leading axis over all devices."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, P())


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Split each array's largest divisible axis over ``fsdp``; copy what has none.

    Args:
      state: a tree of arrays or ``ShapeDtypeStruct``.
      mesh: from :func:`create_mesh`.

    Returns:
      The tree of ``NamedSharding``.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf.shape, mesh)), state)


def bytes_per_device(tree: Any) -> int:
    """Bytes of one device's shards of ``tree``, of placed arrays or templates with a sharding."""
    shards = [(x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree)]
    return sum(math.prod(shape) * itemsize for shape, itemsize in shards)


def _spec(shape: tuple[int, ...], mesh: Mesh) -> P:
    parts = mesh.shape["fsdp"]
    divisible = [i for i, size in enumerate(shape) if size % parts == 0 and size >= parts]
    if parts == 1 or not divisible:
        return P()
    largest = max(divisible, key=lambda i: shape[i])
    return P(*(None,) * largest, "fsdp")
