"""The device mesh and where arrays live on it."""

from collections import Counter
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.errors import InputError


def create_mesh(fsdp: int = 1) -> Mesh:
    """All devices as a ``data x fsdp`` mesh.

    Both axes split the batch; ``fsdp`` also splits parameters and optimizer state.

    Raises:
      InputError: if ``fsdp`` does not divide the number of devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise InputError(f"fsdp={fsdp} must divide the number of devices, {devices}")
    axis_types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=axis_types)


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
    """Bytes of ``tree`` (of placed arrays) on the fullest device of this process."""
    held: Counter[jax.Device] = Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values(), default=0)


def _spec(shape: tuple[int, ...], mesh: Mesh) -> P:
    parts = mesh.shape["fsdp"]
    divisible = [i for i, size in enumerate(shape) if size % parts == 0 and size >= parts]
    if parts == 1 or not divisible:
        return P()
    largest = max(divisible, key=lambda i: shape[i])
    return P(*(None,) * largest, "fsdp")
