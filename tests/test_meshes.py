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


<<<<<<< HEAD
def placed(variables: Any, images: Any) -> Any:
    """Both as shapes on the mesh."""
    place = partial(jax.tree.map, lambda x, spec: x.update(sharding=NamedSharding(MESH, spec)))
    return place(variables, jax.tree.map(lambda _: WHOLE, variables)), place(images, SPLIT)


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in KINDS])
def test_every_other_model_is_traced_on_both_kinds_of_mesh(name: str) -> None:
    model, images = tiny(name), jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    inputs = placed(variables, images)
    for run in (partial(logits_and_gradients, model), in_shard_map(model)):
        logits, gradients = jax.eval_shape(run, *inputs)
        assert logits.sharding.spec[0] == "data"
        assert not any(any(x.sharding.spec) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("name", "remat"), [*((n, None) for n in KINDS), ("cpv", "block")])
def test_meshes_give_what_one_device_gives(name: str, remat: str | None) -> None:
    model = tiny(name, **({"remat": remat} if remat else {}))
    variables, images = random_variables(model), random_images(16, 8, 8)
    run = partial(logits_and_gradients, model)
    want = jax.jit(run)(variables, images)
    split = (
        jax.device_put(variables, NamedSharding(MESH, WHOLE)),
        jax.device_put(images, NamedSharding(MESH, SPLIT)),
    )
    for on_mesh in (run, in_shard_map(model)):
        got = jax.jit(on_mesh)(*split)
        assert got[0].sharding.spec[0] == "data"
        for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6)


@pytest.mark.parametrize("name", ["performer", "nystrom"])
def test_attention_keeps_heads_split_and_takes_masks(name: str) -> None:
    projection = random_projection(jax.random.key(1), 8, 4)
    attend = partial(performer_attention, projection=projection)
    if name == "nystrom":
        attend = partial(nystrom_attention, num_landmarks=4, pinv_iterations=7)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    x = [jax.random.normal(rng, (8, 14, 2, 4)) for rng in jax.random.split(jax.random.key(0), 3)]
    mask = jnp.asarray(np.random.default_rng(0).random((8, 1, 1, 14)) > 0.3)

    def both(x: Any, mask: Any) -> Any:
        out, back = jax.vjp(partial(attend, mask=mask), *x)
        return out, back(out)

    want = jax.jit(both)(x, mask)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", None, "model")))
    got = jax.jit(both)(split, jax.device_put(mask, NamedSharding(mesh, SPLIT)))
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        assert tuple(a.sharding.spec)[:3] == ("data", None, "model")
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
=======
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
>>>>>>> codebase
