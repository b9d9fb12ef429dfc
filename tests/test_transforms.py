"""Every model under JAX's transforms, on both kinds of mesh, and exported: a table without gaps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cxv_jax import models
from tests.test_models import random_images, random_variables, tiny

ROWS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in models.MODELS}
ROWS["cpv, remat=block"] = ("cpv", {"remat": "block"})
ANY_SIZE = ["cpv", "cnv", "cltv", "cxv_base", "cxv_small", "cxv_nano", "vit_rope", "vin_rope"]
ANY_SIZE += ["vip_rope", "resnet18", "convmixer", "cct_7_3x1_sine", "cvt", "cvt_ms"]
MESH = jax.make_mesh((8,), ("data",))
WHOLE, SPLIT = PartitionSpec(), PartitionSpec("data")
STEP = 1e-3
IMAGES = (8, 8, 8)


def run(function: Callable[..., Any], *operands: Any) -> Any:
    """In one program; the results in NumPy's arrays, whose arithmetic compiles nothing."""
    return jax.device_get(jax.jit(function)(*operands))


@functools.cache  # Some names differ in nothing but size: one model.
def inputs(model: Any) -> Any:
    return jax.device_get(random_variables(model))


def inner(a: Any, b: Any) -> Any:
    return sum(np.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def assert_each_near(got: Any, want: Any, share: float = 1e-4) -> None:
    """Every leaf, as a share of its largest entry."""
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=share * float(np.abs(b).max()) + 1e-6)


@functools.cache
def direction(model: Any) -> Any:
    numbers = np.random.default_rng(2)
    params = inputs(model)["params"]
    drawn = jax.tree.map(lambda x: numbers.normal(size=x.shape).astype(x.dtype), params)
    if "tokenizer" in drawn:  # CCT's only ReLUs and maxima: what is before them stays.
        drawn["tokenizer"] = jax.tree.map(np.zeros_like, drawn["tokenizer"])
    return drawn


def loss(model: Any, variables: Any, images: Any, params: Any) -> Any:
    logits = model.apply({**variables, "params": params}, images)
    return jnp.mean(logits**2), logits


def gradient(model: Any, variables: Any, images: Any) -> Any:
    run = functools.partial(loss, model, variables, images)
    (value, logits), slopes = jax.value_and_grad(run, has_aux=True)(variables["params"])
    return value, logits, slopes


def split_gradient(model: Any, variables: Any, images: Any) -> Any:
    """The same inside ``shard_map``, each device with its images."""

    def mean(params: Any) -> Any:
        value, logits = loss(model, variables, images, params)
        return jax.lax.pmean(value, "data"), logits

    (value, logits), slopes = jax.value_and_grad(mean, has_aux=True)(variables["params"])
    return value, logits, slopes


@functools.cache
def forward_mode(model: Any) -> Any:
    """The gradient; by jvp, the loss's slope and the gradient's; the loss's by linearize."""

    def both(variables: Any, images: Any, along: Any) -> Any:
        def at(params: Any) -> Any:
            return gradient(model, {**variables, "params": params}, images)

        there, change = jax.jvp(at, (variables["params"],), (along,))
        value = functools.partial(loss, model, variables, images)
        _, slope, _ = jax.linearize(value, variables["params"], has_aux=True)
        return there, change[0], change[2], slope(along)

    return run(both, inputs(model), random_images(*IMAGES), direction(model))


@functools.cache
def near_by(model: Any) -> Any:
    """``gradient`` a step behind, here, and a step ahead: three sets of parameters by vmap."""

    def at(variables: Any, images: Any, along: Any, step: Any) -> Any:
        params = jax.tree.map(lambda x, d: x + step * d, variables["params"], along)
        return gradient(model, {**variables, "params": params}, images)

    every = jax.vmap(at, (None, None, None, 0))
    steps = np.float32(STEP) * np.arange(-1, 2, dtype=np.float32)
    return run(every, inputs(model), random_images(*IMAGES), direction(model), steps)


def jvp(model: Any) -> None:
    (_, _, slopes), slope, *_ = forward_mode(model)
    np.testing.assert_allclose(slope, inner(slopes, direction(model)), rtol=1e-3)
    value, *_ = near_by(model)
    np.testing.assert_allclose((value[2] - value[0]) / (2 * STEP), slope, rtol=1e-2)


def linearize(model: Any) -> None:
    _, slope, _, linearized = forward_mode(model)
    np.testing.assert_allclose(linearized, slope, rtol=1e-4)


def hessian_product(model: Any) -> None:
    """Against differences of the gradient, over all parameters together."""
    slopes = near_by(model)[2]
    got, want = forward_mode(model)[2], jax.tree.map(lambda x: (x[2] - x[0]) / (2 * STEP), slopes)
    if type(model).__name__ == "ResNet":
        got, want = products_in_float64(model)
    error = jax.tree.map(np.subtract, got, want)
    assert 0 < inner(error, error) < 1e-3**2 * inner(want, want)


def products_in_float64(model: Any) -> Any:
    """By forward over reverse, and by a difference too small to cross a ReLU's kink.

    Of the features: the head is float32 in every model.
    """
    wide = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
    operands = wide((inputs(model), random_images(2, 8, 8), direction(model)))
    model = model.clone(dtype=jnp.float64)

    def both(step: Any, variables: Any, images: Any, along: Any) -> Any:
        def square(params: Any) -> Any:
            every = {**variables, "params": params}
            _, kept = model.apply(every, images, mutable="intermediates")
            return jnp.mean(kept["intermediates"]["features"][0] ** 2)

        params = jax.tree.map(lambda x, d: x + step * d, variables["params"], along)
        return jax.jvp(jax.grad(square), (params,), (along,))

    with jax.enable_x64(True):
        every = jax.vmap(both, (0, None, None, None))
        slopes, products = run(every, 1e-7 * np.arange(-1.0, 2.0), *operands)
    return (
        jax.tree.map(lambda x: x[1], products),
        jax.tree.map(lambda x: (x[2] - x[0]) / 2e-7, slopes),
    )


def vmap(model: Any) -> None:
    assert_each_near(jax.tree.map(lambda x: x[1], near_by(model)), forward_mode(model)[0], 1e-3)


def explicit_mesh(model: Any) -> None:
    on_mesh(model, functools.partial(gradient, model))


def shard_map(model: Any) -> None:
    specs: Any = dict(in_specs=(WHOLE, SPLIT), out_specs=(WHOLE, SPLIT, WHOLE))
    on_mesh(model, jax.shard_map(functools.partial(split_gradient, model), mesh=MESH, **specs))


def on_mesh(model: Any, function: Callable[..., Any]) -> None:
    variables = jax.device_put(inputs(model), NamedSharding(MESH, WHOLE))
    images = jax.device_put(random_images(*IMAGES), NamedSharding(MESH, SPLIT))
    value, logits, slopes = jax.jit(function)(variables, images)
    assert logits.sharding.spec[0] == "data"
    assert not any(any(x.sharding.spec) for x in jax.tree.leaves(slopes))
    assert_each_near(jax.device_get((value, logits, slopes)), forward_mode(model)[0])


def symbolic_batch(model: Any) -> None:
    assert exported(model, "batch, 8, 8, 3").out_avals[0].shape[1] == 3


COLUMNS = [jvp, linearize, hessian_product, vmap, explicit_mesh, shard_map, symbolic_batch]


@functools.cache
def holds(column: Callable[[Any], None], model: Any) -> None:
    column(model)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.__name__)
@pytest.mark.parametrize("row", ROWS)
def test_every_model_under_every_transform(row: str, column: Callable[[Any], None]) -> None:
    name, fields = ROWS[row]
    holds(column, tiny(name, **fields))


@pytest.mark.parametrize("name", ["cpv", "vin"])
def test_vmap_of_forward_mode_equals_one_by_one(name: str) -> None:
    model = tiny(name)

    def product(along: Any, variables: Any, images: Any) -> Any:
        of = jax.grad(lambda params: loss(model, variables, images, params)[0])
        return jax.jvp(of, (variables["params"],), (along,))[1]

    pair = jax.tree.map(lambda x: np.stack([x, -x]), direction(model))
    every = jax.vmap(product, (0, None, None))
    there = run(every, pair, inputs(model), random_images(*IMAGES))
    assert_each_near(jax.tree.map(lambda x: x[0], there), forward_mode(model)[2], 1e-3)
    assert_each_near(jax.tree.map(lambda x: -x[1], there), forward_mode(model)[2], 1e-3)


def exported(model: Any, sizes: str) -> Any:
    limits = [f"{size} >= 8" for size in ("height", "width") if size in sizes]
    shape = jax.export.symbolic_shape(sizes, constraints=limits)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.export.export(jax.jit(model.apply))(inputs(model), images)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_symbolic_height_and_width_are_exported(name: str) -> None:
    program = exported(tiny(name), "batch, height, width, 3")
    assert program.out_avals[0].shape[1] == 3


@pytest.mark.parametrize("name", ["cltv", "cnv", "cxv_nano", "cvt"])
def test_one_exported_program_runs_at_every_size(name: str) -> None:
    program = exported(tiny(name), "batch, height, width, 3")
    for shape in ((1, 8, 8), (2, 9, 13)):
        x = random_images(*shape)
        got, want = (run(f, inputs(tiny(name)), x) for f in (program.call, tiny(name).apply))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cpv", "vin"])
def test_an_exported_program_runs_at_any_batch(name: str) -> None:
    program = exported(tiny(name), "batch, 8, 8, 3")
    for n in (1, 3):
        x = random_images(n, 8, 8)
        got, want = (run(f, inputs(tiny(name)), x) for f in (program.call, tiny(name).apply))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
