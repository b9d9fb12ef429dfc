"""JAX's transforms on every kind of model, against finite differences and against each other."""

import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models
from tests.test_models import random_images, random_variables, tiny

KINDS = ["cpv", "cnv", "cltv", "cxv_nano", "vit", "vil", "vin", "vip", "fnet", "mlp_mixer"]
KINDS += ["resnet18", "convmixer", "cct_7_3x1", "cvt"]
KINKED = ["resnet18"]  # Differences cross its ReLUs; see the test in float64.
ANY_SIZE = ["cpv", "cnv", "cltv", "cxv_base", "cxv_small", "cxv_nano", "vit_rope", "vin_rope"]
ANY_SIZE += ["vip_rope", "resnet18", "convmixer", "cct_7_3x1_sine", "cvt", "cvt_ms"]
STEP = 1e-3


@jax.jit
def inner(a: Any, b: Any) -> Any:
    return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@jax.jit
def moved(a: Any, b: Any, by: float, over: float = 1.0) -> Any:
    """``(a + by b) / over``."""
    return jax.tree.map(lambda x, y: (x + by * y) / over, a, b)


@functools.cache
def case(name: str, **fields: Any) -> tuple[Any, Any, Any, Any]:
    """A loss of the parameters, those, a direction and another one."""
    model = tiny(name, **fields)
    variables = random_variables(model)
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any) -> jax.Array:
        return jnp.sum(model.apply({"params": params, **rest}, random_images(2, 8, 8)) ** 2)

    numbers = np.random.default_rng(2)
    directions = [
        jax.tree.map(lambda x: jnp.asarray(numbers.normal(size=x.shape), x.dtype), rest_of)
        for rest_of in 2 * [variables["params"]]
    ]
    return loss, variables["params"], *directions


def both(loss: Any, params: Any, direction: Any) -> Any:
    """Loss, gradient, the loss's slope by jvp and by linearize, and the gradient's."""
    (loss_, gradient), (slope, product) = jax.jvp(jax.value_and_grad(loss), (params,), (direction,))
    linearized = jax.linearize(loss, params)[1](direction)
    return loss_, gradient, slope, linearized, product


@pytest.mark.parametrize(("name", "remat"), [*((n, None) for n in KINDS), ("cpv", "block")])
def test_forward_mode_and_hessian_products(name: str, remat: str | None) -> None:
    loss, params, direction, _ = case(name, **({"remat": remat} if remat else {}))
    if "tokenizer" in direction:  # CCT's only ReLUs: what is before them stays, as do their signs.
        zeros = jax.tree.map(jnp.zeros_like, direction["tokenizer"])
        direction = {**direction, "tokenizer": zeros}
    run = jax.jit(functools.partial(both, loss))
    _, gradient, slope, linearized, product = run(params, direction)
    np.testing.assert_allclose(slope, inner(gradient, direction), rtol=1e-3)
    np.testing.assert_allclose(linearized, slope, rtol=1e-4)
    ahead, behind = (run(moved(params, direction, s * STEP), direction) for s in (1, -1))
    np.testing.assert_allclose((ahead[0] - behind[0]) / (2 * STEP), slope, rtol=1e-2)
    want = moved(ahead[1], behind[1], -1.0, 2 * STEP)
    if name in KINKED:
        want = jax.jit(jax.grad(lambda p: inner(jax.grad(loss)(p), direction)))(params)
    error = moved(product, want, -1.0)
    assert inner(error, error) < 1e-3**2 * inner(want, want)


def test_hessian_product_of_a_relu_network_in_float64() -> None:
    """So small a step crosses no kink. Of the features: the head is float32 in every model."""
    with jax.enable_x64(True):
        wide = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
        model = tiny("resnet18", dtype="float64")
        variables, images = wide(random_variables(model)), wide(random_images(2, 8, 8))
        _, _, direction, _ = case("resnet18")

        def loss(params: Any) -> jax.Array:
            state = model.apply({**variables, "params": params}, images, mutable="intermediates")
            return jnp.mean(state[1]["intermediates"]["features"][0] ** 2)

        gradient = jax.jit(jax.grad(loss))
        params, direction = variables["params"], wide(direction)
        product = jax.jit(lambda p, d: jax.jvp(jax.grad(loss), (p,), (d,))[1])(params, direction)
        ahead, behind = (gradient(moved(params, direction, s * 1e-7)) for s in (1, -1))
        want = moved(ahead, behind, -1.0, 2e-7)
        error = moved(product, want, -1.0)
        assert inner(want, want) > 0
        assert inner(error, error) < 1e-3**2 * inner(want, want)


@pytest.mark.parametrize("name", KINDS)
def test_vmap_over_parameters_equals_a_loop(name: str) -> None:
    loss, params, other, direction = case(name)

    def run(params: Any, direction: Any) -> Any:
        if name in ("cpv", "vin"):
            return both(loss, params, direction)
        return jax.value_and_grad(loss)(params)

    pair = jax.tree.map(lambda *x: np.stack(x), params, other)
    together = jax.jit(jax.vmap(run, (0, None)))(pair, direction)
    alone = jax.jit(run)(params, direction)
    leaves = (jax.tree.leaves(jax.device_get(x)) for x in (together, alone))
    for got, want in zip(*leaves, strict=True):
        atol = 1e-3 * np.abs(want).max() + 1e-6
        np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_symbolic_batch_is_exported(name: str) -> None:
    model, image = tiny(name), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    exported = jax.export.export(jax.jit(model.apply))(variables, images)
    assert exported.out_avals[0].shape == (batch, 3)


@pytest.mark.parametrize("name", ["cpv", "vin"])
def test_an_exported_program_runs_at_any_batch(name: str) -> None:
    model = tiny(name)
    variables = random_variables(model)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    exported = jax.export.export(jax.jit(model.apply))(variables, images)
    for n in (1, 3):
        x = random_images(n, 8, 8)
        want: Any = jax.jit(model.apply)(variables, x)
        np.testing.assert_allclose(exported.call(variables, x), want, rtol=1e-4, atol=1e-5)


def exported_at_any_size(name: str, variables: Any) -> Any:
    limits = ["height >= 8", "width >= 8"]
    sizes = jax.export.symbolic_shape("batch, height, width, 3", constraints=limits)
    images = jax.ShapeDtypeStruct(sizes, jnp.float32)
    return jax.export.export(jax.jit(tiny(name).apply))(variables, images)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_symbolic_height_and_width_are_exported(name: str) -> None:
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(tiny(name).init, jax.random.key(0), image)
    assert exported_at_any_size(name, variables).out_avals[0].shape[1] == 3


@pytest.mark.parametrize("name", ["cltv", "cnv", "cxv_nano", "cvt"])
def test_one_exported_program_runs_at_every_size(name: str) -> None:
    variables = random_variables(tiny(name))
    exported = exported_at_any_size(name, variables)
    for shape in ((1, 8, 8), (2, 9, 13)):
        x = random_images(*shape)
        want: Any = jax.jit(tiny(name).apply)(variables, x)
        np.testing.assert_allclose(exported.call(variables, x), want, rtol=1e-4, atol=1e-5)
