"""Gradient accumulation: the update of the whole batch from its parts, in less memory."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models, step
from cxv_jax.errors import InputError
from cxv_jax.session import Session
from experiments.configs import digits
from tests import small_steps

TINY = {"embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
BATCH = 32


@pytest.mark.parametrize(("micro_batch", "share"), [(16, 0.6), (4, 0.2)])
def test_parts_update_like_the_whole_batch_in_less_memory(micro_batch: int, share: float) -> None:
    model = models.create("cltv", dropout=0.0, **TINY)
    whole, losses, step_of_all = small_steps.run(model, 1, rate=0.1)
    parts, losses_of_parts, step_of_parts = small_steps.run(
        model, 1, rate=0.1, micro_batch=micro_batch
    )
    np.testing.assert_allclose(losses_of_parts, losses, rtol=1e-6)
    pairs = zip(jax.tree.leaves(parts.params), jax.tree.leaves(whole.params), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    temporary = [c.memory_analysis().temp_size_in_bytes for c in (step_of_parts, step_of_all)]
    assert temporary[0] < share * temporary[1]


def test_devices_cut_their_own_share() -> None:
    model = models.create("cpv", **TINY)  # With dropout: the masks do not depend on the devices.
    _, many, compiled = small_steps.run(model, 3, rate=0.1, devices=8, micro_batch=16)
    _, one, _ = small_steps.run(model, 3, rate=0.1, micro_batch=16)
    np.testing.assert_allclose(many, one, atol=1e-5)
    assert many[-1] != many[0]
    text = compiled.as_text()
    moved = re.findall(r"= (\S+?)\{\S* (?:all-gather|all-to-all|collective-permute)\(", text)
    assert moved == ["f32[16,10]"]  # Logits, to be ranked; no images.


def test_parts_come_one_after_the_other_each_with_its_key() -> None:
    def gradient(params: Any, seen: Any, rng: jax.Array, part: Any) -> Any:
        draw = jax.random.uniform(rng)
        return params * part["image"].mean(), (10 * seen + part["image"][0], {"draw": draw})

    batch, rng = {"image": jnp.arange(1.0, 7.0)}, jax.random.key(0)
    seen, two = jnp.zeros(()), jnp.full((), 2.0)
    grads, (seen, sums) = step.accumulate(gradient, two, seen, rng, batch, 3)
    assert float(grads) == 2 * 3.5
    assert float(seen) == 123  # The parts are 1 and 4, 2 and 5, 3 and 6.
    draws = [float(jax.random.uniform(key)) for key in jax.random.split(rng, 3)]
    np.testing.assert_allclose(float(sums["draw"]), sum(draws), rtol=1e-6)


def test_a_micro_batch_that_devices_cannot_share_is_refused() -> None:
    config = digits.get_config("cltv")
    config.batch_size, config.micro_batch = 64, 4
    with pytest.raises(InputError, match=r"micro_batch = 4 must be a multiple of .* devices, 8"):
        Session.of(config)
