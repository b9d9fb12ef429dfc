"""Recomputed blocks: the same bits with less memory."""

from functools import reduce
from operator import getitem
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from cxv_jax import models
from cxv_jax.errors import InputError
from tests import quick_jax

TINY = {"embed_dim": 16, "depth": 2}
HEADS = {**TINY, "num_heads": 2, "head_dim": 8}
SIZED = {**TINY, "image_size": 8}
# Fields of a small model, a parameter of its last block, the share of memory that blocks need.
MODELS: dict[str, tuple[dict[str, Any], list[str], float]] = {
    "cpv": (HEADS, ["attention_1", "out"], 0.7),
    "cnv": (HEADS | {"num_landmarks": 4}, ["attention_1", "out"], 0.85),
    "cltv": (HEADS, ["attention_1", "out"], 0.75),
    "vit": (SIZED | HEADS, ["block_1", "mlp", "fc1"], 0.8),
    "fnet": (SIZED, ["block_1", "mlp", "fc1"], 0.8),
    "mlp_mixer": (SIZED | {"tokens_dim": 64}, ["block_1", "mlp", "fc1"], 0.8),
    "cct_128_4": (
        SIZED | {"num_heads": 2, "conv_dim": 4, "depth": 3},
        ["block_1", "mlp", "fc1"],
        0.8,
    ),
}
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def train_gradient(model: nn.Module, variables: Any) -> tuple[tuple[Array, Any], int]:
    """Loss and gradients of a training batch with dropout, and the program's temporary bytes."""
    rng = jax.random.key(1)

    def loss_fn(params: Any, rng: Array) -> Array:
        rngs = {"dropout": rng}
        logits = model.apply({**variables, "params": params}, IMAGES, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

    lowered = jax.jit(jax.value_and_grad(loss_fn)).lower(variables["params"], rng)
    compiled = lowered.compile(quick_jax.AS_USED)
    memory = compiled.memory_analysis()
    assert memory is not None
    return compiled(variables["params"], rng), memory.temp_size_in_bytes


@pytest.mark.parametrize("name", MODELS)
def test_recomputing_changes_no_bit_and_blocks_save_memory(name: str) -> None:
    fields, path, share = MODELS[name]
    plain = models.create(name, **fields)
    variables = jax.jit(plain.init)(jax.random.key(0), IMAGES)
    (loss, kept), whole = train_gradient(plain, variables)
    assert reduce(getitem, path, kept)["kernel"].any()
    for remat in models.choices(name, "remat")[1:]:
        model = models.create(name, remat=remat, **fields)
        (again, gradients), temporary = train_gradient(model, variables)
        assert again == loss
        jax.tree.map(np.testing.assert_array_equal, gradients, kept)
    assert temporary < share * whole


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match="remat='blocks' must be one of none, attention, block"):
        models.create("cpv", remat="blocks")
