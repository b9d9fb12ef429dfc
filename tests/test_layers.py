"""Layers against their formulas, NumPy and plain jax.nn."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import layers


def norm_by_formula(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    sigma = jnp.sqrt((centred**2).mean(-1, keepdims=True))
    shape = (1,) * (x.ndim - 1) + scale.shape
    return centred / (sigma + 1e-5) * scale.reshape(shape) + bias.reshape(shape)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_channel_norm_equals_its_formula_in_value_and_gradient() -> None:
    x, scale, bias, weight = 3 + normal(0, 2, 3, 5, 7), normal(1, 7), normal(2, 7), normal(3, 7)

    def loss(norm):
        return lambda *a: (jnp.sin(norm(*a)) * weight.reshape(1, 1, 1, 7)).sum()

    np.testing.assert_allclose(
        layers.channel_norm(x, scale, bias), norm_by_formula(x, scale, bias), rtol=0, atol=1e-5
    )
    got = jax.jit(jax.grad(loss(layers.channel_norm), (0, 1, 2)))(x, scale, bias)
    want = jax.jit(jax.grad(loss(norm_by_formula), (0, 1, 2)))(x, scale, bias)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_channel_norm_has_no_gradient_where_nothing_varies() -> None:
    x = jnp.stack([jnp.full(7, 4.0), jnp.arange(7.0)])
    grad = jax.grad(lambda x: (layers.channel_norm(x, jnp.arange(7.0), jnp.ones(7)) ** 3).sum())(x)
    assert (grad[0] == 0).all()
    assert (grad[1] != 0).any()
    assert jnp.isnan(jax.grad(lambda x: norm_by_formula(x, *jnp.ones((2, 7))).sum())(x)).any()


@pytest.mark.parametrize(
    "layer", [layers.gelu, lambda x: layers.channel_norm(x, *jnp.ones((2, 7)))]
)
def test_bfloat16_in_bfloat16_out(layer) -> None:
    x = normal(0, 5, 7)
    run = jax.jit(jax.value_and_grad(lambda x: (layer(x) ** 2).sum()))
    (got, grad), (want, want_grad) = run(x.astype(jnp.bfloat16)), run(x)
    assert got.dtype == grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0.02)
    np.testing.assert_allclose(grad.astype(jnp.float32), want_grad, rtol=0, atol=0.05)


def test_gelu_equals_jaxs_exact_one_in_value_and_gradient() -> None:
    x = jnp.concatenate([jnp.linspace(-8, 8, 1001), jnp.array([0.0, -40.0, 40.0])])

    def exact(x):
        return jax.nn.gelu(x, approximate=False)

    np.testing.assert_allclose(layers.gelu(x), exact(x), rtol=0, atol=1e-6)
    got = jax.jit(jax.grad(lambda x: (layers.gelu(x) ** 2).sum()))(x)
    want = jax.jit(jax.grad(lambda x: (exact(x) ** 2).sum()))(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1, 0.999])
@pytest.mark.parametrize("shape", [(400, 250), (100_003,)])
def test_dropout_keeps_and_scales(rate: float, shape: tuple) -> None:
    x = 1 + np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32)

    @jax.jit
    def drop(x, seed):
        return layers.Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})

    @jax.jit
    def backward(x, gradient):
        return jax.vjp(lambda x: drop(x, 1), x)[1](gradient)[0]

    out = np.asarray(drop(x, 1))
    kept = out != 0
    deviation = (rate * (1 - rate) / x.size) ** 0.5
    assert kept.mean() == pytest.approx(1 - rate, abs=5 * deviation)
    np.testing.assert_allclose(out[kept], x[kept] / (1 - rate), rtol=1e-6)
    back = backward(x, np.ones(shape, np.float32))
    np.testing.assert_allclose(back, kept / (1 - rate), rtol=1e-6)
    assert (np.asarray(drop(x, 2)) != out).any()
    flat = kept.reshape(-1).astype(float)
    for lag in (1, 8, 16, 32, 250):  # Elements that share a random word must not be correlated.
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 5 * x.size**-0.5
    assert jnp.all(layers.Dropout(rate).apply({}, jnp.asarray(x), train=False) == x)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_of_nothing_is_nothing(rate: float) -> None:
    layer = layers.Dropout(rate)
    drop: Any = functools.partial(layer.apply, {}, train=True, rngs={"dropout": jax.random.key(0)})
    out, vjp = jax.vjp(drop, jnp.ones((0, 4)))
    assert out.shape == vjp(out)[0].shape == (0, 4)


@pytest.mark.parametrize("fan_in", [4, 100])
def test_initialisation_is_pytorchs(fan_in: int) -> None:
    """U(-a, a) with a = fan_in^(-1/2) for kernels and biases: its edges and its variance."""
    init = jax.jit(layers.Dense(4001).init)
    variables = init(jax.random.key(0), jnp.ones((1, fan_in)))["params"]
    for leaf in map(np.asarray, variables.values()):
        assert np.abs(leaf).max() == pytest.approx(fan_in**-0.5, rel=1e-2)
        assert np.abs(leaf).max() <= fan_in**-0.5
        assert leaf.var() == pytest.approx(1 / fan_in / 3, rel=0.05)


@pytest.mark.parametrize(("kernel_size", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (4, 2, 2)])
def test_conv_equals_the_sum_over_taps(kernel_size: int, stride: int, groups: int) -> None:
    layer = layers.Conv(6, kernel_size, stride, groups=groups)
    x = normal(0, 2, 7, 11, 4)
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    kernel, bias = (np.asarray(variables["params"][n]) for n in ("kernel", "bias"))
    pad = kernel_size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.asarray(jax.jit(layer.apply)(variables, x))
    for i, j in np.ndindex(out.shape[1:3]):
        window = padded[:, i * stride :, j * stride :][:, :kernel_size, :kernel_size]
        for g in range(groups):
            ins, outs = (slice(g * n // groups, (g + 1) * n // groups) for n in (4, 6))
            want = np.einsum("byxc,yxco->bo", window[..., ins], kernel[..., outs]) + bias[outs]
            np.testing.assert_allclose(out[:, i, j, outs], want, rtol=0, atol=1e-5)
