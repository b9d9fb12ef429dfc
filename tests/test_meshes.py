"""Every model under a mesh of Explicit axes (JAX's default) and inside ``jax.shard_map``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cxv_jax import models
from cxv_jax.attention import nystrom_attention, performer_attention, random_projection
from tests.test_models import random_images, random_variables, tiny
from tests.test_transforms import KINDS

MESH = jax.make_mesh((8,), ("data",))
WHOLE, SPLIT = PartitionSpec(), PartitionSpec("data")


def logits_and_gradients(
    model: Any, variables: Any, images: Any, average: Callable[[Any], Any] = lambda x: x
) -> Any:
    def loss(params: Any) -> Any:
        logits = model.apply({**variables, "params": params}, images)
        return average(jnp.mean(logits**2)), logits

    gradients, logits = jax.grad(loss, has_aux=True)(variables["params"])
    return logits, gradients


def in_shard_map(model: Any) -> Callable[[Any, Any], Any]:
    average = partial(jax.lax.pmean, axis_name="data")
    run = partial(logits_and_gradients, model, average=average)
    return jax.shard_map(run, mesh=MESH, in_specs=(WHOLE, SPLIT), out_specs=(SPLIT, WHOLE))


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
