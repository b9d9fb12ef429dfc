"""FSDP: state really is split, nothing else changes, checkpoints move to other devices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cxv_jax import sharding
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.errors import InputError
from cxv_jax.phase import Phase
from cxv_jax.session import Session
from cxv_jax.state import TrainState
from experiments.configs import digits

STEPS = 5


def tiny_config() -> ConfigDict:
    config = digits.get_config("cpv")
    config.model.update(embed_dim=16, depth=1, num_heads=2, head_dim=4)
    config.data.subset_per_class = 40
    config.batch_size = 32
    config.ema_decay = 0.9
    return config


class Run:
    """The first epoch of a tiny run on a mesh."""

    def __init__(self, fsdp: int, devices: int):
        config = tiny_config()
        config.fsdp = fsdp
        self.session = Session.of(config, devices=devices)
        self.phase, self.loader = self.session.phases[Phase.ONE], self.session.train_loader
        self.state = self.phase.begin()

    def losses(self, start: int, stop: int) -> Iterator[float]:
        """Run the steps ``start`` to ``stop`` of the epoch."""
        for number, (_, feed) in enumerate(self.loader.epoch(0, start), start):
            if number == stop:
                return
            self.state, sums = self.phase.update(
                self.state, self.session.rng, self.loader.data, feed
            )
            yield float(sums["loss"]) / 32

    def temporaries(self) -> int:
        """Bytes that a device needs in a step besides state and data."""
        _, feed = next(iter(self.loader.epoch(0, 0)))
        step = self.phase.update.lower(
            self.state, self.session.rng, self.loader.data, feed
        ).compile()
        return step.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope="module")
def unsplit() -> list[float]:
    return list(Run(1, 8).losses(0, STEPS))


def test_a_device_computes_its_share_of_the_batch_only() -> None:
    one, eight = (Run(1, n).temporaries() for n in (1, 8))
    assert eight < one / 5


def held_by(tree: Any, device: jax.Device) -> int:
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return sum(np.asarray(s.data).nbytes for s in shards if s.device == device)


def split_size(state: TrainState, fsdp: int) -> int:
    """Bytes a device holds if every array that can be split over ``fsdp`` is."""
    sizes = [
        leaf.nbytes // (fsdp if any(n and n % fsdp == 0 for n in leaf.shape) else 1)
        for leaf in jax.tree.leaves(state)
    ]
    return sum(sizes)


@pytest.mark.parametrize("fsdp", [4, 8])
def test_state_is_split_and_losses_stay(fsdp: int, unsplit: list[float]) -> None:
    run = Run(fsdp, 8)
    split = list(run.losses(0, STEPS))
    np.testing.assert_allclose(split, unsplit, atol=1e-5)
    assert abs(split[-1] - split[0]) > 1e-3
    for part in (run.state.params, run.state.opt_state, run.state.ema, run.state):
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(part))
        for device in jax.devices():
            assert held_by(part, device) == split_size(part, fsdp)
        assert sharding.bytes_per_device(part) == split_size(part, fsdp) < 0.5 * whole


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 2)])
def test_a_split_checkpoint_goes_on_elsewhere(
    tmp_path: Path, devices: int, fsdp: int, unsplit: list[float]
) -> None:
    first = Run(4, 8)
    begun = list(first.losses(0, 2))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(2, first.state, {})
    other = Run(fsdp, devices)
    other.state = checkpointer.restore(2, other.phase.template)
    checkpointer.close()
    kernel = jax.tree.leaves(other.state.params)[0]
    assert kernel.sharding.device_set == set(jax.devices()[:devices])
    np.testing.assert_allclose(begun + list(other.losses(2, STEPS)), unsplit, atol=1e-5)


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    assert dict(sharding.create_mesh(4).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(InputError, match="fsdp=3 must divide the number of devices, 8"):
        sharding.create_mesh(3)
