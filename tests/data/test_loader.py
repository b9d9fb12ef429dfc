"""Loaders: order, chunks, padding and resumption against the defining formula."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.data.loader import make_loader
from cxv_jax.data.splits import Split

NUMBER, BATCH = 59, 8


@pytest.fixture(scope="module")
def split() -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (NUMBER, 5, 7, 3), np.uint8)
    return Split(images, np.arange(NUMBER, dtype=np.int32))


@pytest.fixture(scope="module", params=[1, 8])
def sharding(request) -> NamedSharding:
    types = (AxisType.Auto,)
    mesh = jax.make_mesh((request.param,), ("data",), types, devices=jax.devices()[: request.param])
    return NamedSharding(mesh, P("data"))


def batches(loader, epoch: int = 0, start: int = 0) -> list[dict[str, np.ndarray]]:
    """All batches of an epoch, gathered inside jit as the training loop does."""
    step = jax.jit(
        lambda data, feed, i: loader.fetch(data, jax.tree.map(lambda x: x[i], feed)),
        static_argnums=2,
    )
    found = []
    with jax.transfer_guard("disallow"):
        for count, feed in loader.epoch(epoch, start):
            found += [jax.device_get(step(loader.data, feed, i)) for i in range(count)]
    return found


@pytest.mark.parametrize("kind", ["resident"])
def test_train_epochs_follow_the_formula(split, sharding, kind):
    loader = make_loader(
        split, batch_size=BATCH, seed=3, batch_sharding=sharding, train=True, kind=kind
    )
    assert loader.steps_per_epoch == NUMBER // BATCH
    for epoch in (0, 5):
        key = jax.random.fold_in(jax.random.key(3), epoch)
        order = np.asarray(jax.random.permutation(key, NUMBER))[: NUMBER // BATCH * BATCH]
        got = batches(loader, epoch)
        np.testing.assert_array_equal(np.concatenate([b["label"] for b in got]), order)
        np.testing.assert_array_equal(
            np.concatenate([b["image"] for b in got]), split.images[order]
        )
