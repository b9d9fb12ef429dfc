"""Attention under a mesh of Explicit axes, JAX's default, split over any axis of its operands.

The models on both kinds of mesh: ``tests/test_transforms.py``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cxv_jax.attention import (
    linear_attention,
    linformer_attention,
    nystrom_attention,
    performer_attention,
    random_projection,
    rotate,
    token_convolution,
)
from tests.attention.test_numerics import mixture

LENGTH = 16
ATTEND: dict[str, Callable[..., Any]] = {
    **{r: functools.partial(linear_attention, rule=r) for r in ("softmax", "elu", "mala", "rala")},
    "performer": functools.partial(
        performer_attention, projection=random_projection(jax.random.key(1), 8, 4)
    ),
    "nystrom": functools.partial(nystrom_attention, num_landmarks=4),
    "linformer": functools.partial(linformer_attention, projection=mixture(LENGTH)),
}


def both(attend: Callable[..., Any], x: Any, mask: Any) -> Any:
    out, back = jax.vjp(functools.partial(attend, mask=mask), *x)
    return out, back(out)


@functools.cache
def on_one_device(name: str) -> Any:
    x = [
        jax.random.normal(rng, (2, LENGTH, 2, 4)) for rng in jax.random.split(jax.random.key(0), 3)
    ]
    mask = jnp.asarray(np.random.default_rng(0).random((2, 1, 1, LENGTH)) > 0.3)
    return x, mask, jax.jit(functools.partial(both, ATTEND[name]))(x, mask)


@pytest.mark.parametrize("axes", [("data", None, "model"), ("data", "model", None)])
@pytest.mark.parametrize("name", ATTEND)
def test_attention_keeps_heads_or_tokens_split_and_takes_masks(name: str, axes: Any) -> None:
    x, mask, want = on_one_device(name)
    mesh = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4])
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
    kept = jax.device_put(mask, NamedSharding(mesh, PartitionSpec("data")))
    got = jax.jit(functools.partial(both, ATTEND[name]))(split, kept)
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        assert tuple(a.sharding.spec)[:3] == axes
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("axes", [("data", "model"), ("data", None, "model"), (None, None, "data")])
@pytest.mark.parametrize("function", [rotate, token_convolution])
def test_functions_of_one_sequence_keep_its_split(function: Callable[..., Any], axes: Any) -> None:
    """With two batch axes. What is split is traced; the values are those of one device (XLA's)."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4])
    place = NamedSharding(mesh, PartitionSpec(axes[0], None, *axes[1:]))
    x = jax.ShapeDtypeStruct((2, 3, LENGTH, 2, 4), jnp.float32, sharding=place)
    more = [jax.ShapeDtypeStruct((3, 2), jnp.float32)] * (function is token_convolution)
    out = jax.eval_shape(jax.grad(lambda x, *more: function(x, *more).sum()), x, *more)
    assert tuple(out.sharding.spec)[: len(place.spec)] == tuple(place.spec)
