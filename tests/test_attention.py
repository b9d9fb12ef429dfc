"""Linear attention against its defining formulas in NumPy, and what it must never do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.attention import (
    default_num_features,
    iterative_pinv,
    linear_attention,
    nystrom_attention,
    performer_attention,
    random_projection,
    token_convolution,
)

HEAD_DIM = 7
PROJECTION = random_projection(jax.random.key(5), 19, HEAD_DIM)
performer = partial(performer_attention, projection=PROJECTION)
elu = partial(linear_attention, rule="elu")
mala = partial(linear_attention, rule="mala")
rala = partial(linear_attention, rule="rala")
nystrom = partial(nystrom_attention, num_landmarks=5)
FUNCTIONS = [
    pytest.param(linear_attention, id="linear"),
    pytest.param(elu, id="elu"),
    pytest.param(performer, id="performer"),
    pytest.param(mala, id="mala"),
    pytest.param(rala, id="rala"),
    pytest.param(nystrom, id="nystrom"),
]
KERNELS = FUNCTIONS[:5]  # Those that see the keys only through sums.


def qkv(*batch: int, q_length: int = 17, kv_length: int = 17, seed: int = 0) -> list[jax.Array]:
    rngs = jax.random.split(jax.random.key(seed), 3)
    shapes = (q_length, 3, HEAD_DIM), (kv_length, 3, HEAD_DIM), (kv_length, 3, 5)
    return [jax.random.normal(r, (*batch, *s)) * 1.5 for r, s in zip(rngs, shapes, strict=True)]


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def first(x: Any) -> np.ndarray:
    """Heads before tokens, in float64."""
    return np.swapaxes(np.asarray(x, np.float64), -3, -2)


def softmax_features(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    c = HEAD_DIM**-0.25
    return softmax(c * q) @ np.swapaxes(softmax(c * k, -2), -1, -2)


def elu_features(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    q, k = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
    weights = q @ np.swapaxes(k, -1, -2)
    return weights / weights.sum(-1, keepdims=True)


def mala_weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The paper's own form: a rescaled product less an offset a query."""
    q, k = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
    scores = HEAD_DIM**-0.5 * q @ np.swapaxes(k, -1, -2)
    z = scores.mean(-1, keepdims=True)
    weights = (scores * (1 + 1 / z) - z) / k.shape[-2]
    np.testing.assert_allclose(weights.sum(-1), 1)
    return weights


def rala_weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    q, k = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
    scores = HEAD_DIM**-0.5 * q.mean(-2, keepdims=True) @ np.swapaxes(k, -1, -2)
    weights = q @ np.swapaxes(k, -1, -2) * softmax(scores)
    return weights / weights.sum(-1, keepdims=True)


def random_features(q: np.ndarray, k: np.ndarray, axes: Any = (-3, -2, -1)) -> np.ndarray:
    def phi(x: np.ndarray, axes: Any) -> np.ndarray:
        y = HEAD_DIM**-0.25 * x
        u = y @ np.asarray(PROJECTION, np.float64).T
        return np.exp(u - (y * y).sum(-1, keepdims=True) / 2 - u.max(axes, keepdims=True)) + 1e-4

    weights = phi(q, -1) @ np.swapaxes(phi(k, axes), -1, -2)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    ("attend", "weights"),
    [
        pytest.param(linear_attention, softmax_features, id="linear"),
        pytest.param(elu, elu_features, id="elu"),
        pytest.param(mala, mala_weights, id="mala"),
        pytest.param(rala, rala_weights, id="rala"),
        pytest.param(performer, random_features, id="performer"),
        pytest.param(
            partial(performer, stabilizer="batch"), partial(random_features, axes=None), id="batch"
        ),
    ],
)
def test_equals_the_quadratic_form(attend: Callable, weights: Callable, batch: tuple) -> None:
    q, k, v = qkv(*batch, q_length=13)
    expected = np.swapaxes(weights(first(q), first(k)) @ first(v), -3, -2)
    np.testing.assert_allclose(jax.jit(attend)(q, k, v), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("landmarks", [5, 17, 64])
def test_nystrom_equals_its_formula(landmarks: int, batch: tuple) -> None:
    """Also where tokens are missing in front (17 = 5 * 4 - 3) and where landmarks are tokens."""
    x = qkv(*batch)
    q, k, v = (first(a) for a in x)
    runs = np.array_split(np.arange(17), [1, 5, 9, 13] if landmarks == 5 else range(1, 17))
    ql, kl = (np.stack([a[..., r, :].mean(-2) for r in runs], -2) for a in (q, k))
    a1, a2, a3 = (
        softmax(a @ np.swapaxes(b, -1, -2) * HEAD_DIM**-0.5)
        for a, b in ((q, kl), (ql, kl), (ql, k))
    )
    expected = np.swapaxes(a1 @ np.linalg.pinv(a2) @ a3 @ v, -3, -2)
    attend = partial(nystrom_attention, num_landmarks=landmarks, pinv_iterations=16)
    np.testing.assert_allclose(jax.jit(attend)(*x), expected, rtol=0, atol=2e-3)


def test_nystrom_with_a_landmark_per_token_is_softmax_attention() -> None:
    q, k, v = qkv(2)
    exact = softmax(first(q) @ np.swapaxes(first(k), -1, -2) * HEAD_DIM**-0.5) @ first(v)
    attend = partial(nystrom_attention, num_landmarks=17)
    outs = [jax.jit(partial(attend, pinv_iterations=i))(q, k, v) for i in (2, 6, 12)]
    errors = [np.abs(first(out) - exact).max() for out in outs]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 2e-3


def test_pinv_equals_numpys() -> None:
    matrix = softmax(np.random.default_rng(0).normal(size=(2, 3, 11, 11)) * 3).astype(np.float32)
    for stabilizer in ("example", "batch"):
        got = iterative_pinv(jnp.asarray(matrix), 20, stabilizer)
        np.testing.assert_allclose(got, np.linalg.pinv(matrix), rtol=1e-4, atol=1e-3)


def test_performers_error_falls_as_features_grow() -> None:
    q, k, v = (x / 4 for x in qkv(2))
    exact = softmax(first(q) @ np.swapaxes(first(k), -1, -2) * HEAD_DIM**-0.5) @ first(v)

    def error(num_features: int) -> float:
        draw = jax.jit(lambda rng: random_projection(rng, num_features, HEAD_DIM))
        attend = jax.jit(partial(performer_attention, epsilon=1e-6))
        outs = [attend(q, k, v, projection=draw(jax.random.key(i))) for i in range(8)]
        return float(np.mean([np.abs(first(out) - exact).mean() for out in outs]))

    errors = [error(n) for n in (16, 128, 1024)]
    # Monte Carlo: eight times the features, about a third of the error.
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("attend", KERNELS)
@pytest.mark.parametrize("heads", [1, 3])
def test_masking_equals_removing_the_keys(attend: Callable, heads: int) -> None:
    q, k, v = qkv(2, q_length=17 if attend is rala else 13)
    k = k.at[:, 11:].mul(30.0)  # Were they seen, they would carry every maximum.
    kept = jnp.arange(17) < 11
    run = jax.jit(attend)
    got = run(q, k, v, mask=jnp.broadcast_to(kept, (2, heads, 1, 17)))
    if attend is rala:  # Which averages the queries too.
        q, got = q[:, :11], got[:, :11]
    np.testing.assert_allclose(got, run(q, k[:, :11], v[:, :11]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attend", FUNCTIONS)
def test_masked_keys_get_no_gradient_and_leave_no_trace(attend: Callable) -> None:
    q, k, v = qkv(2)
    kept = np.arange(17) % 3 != 0
    mask = jnp.asarray(kept)[None, None, None]

    @jax.jit
    def seen(q, k, v):
        return attend(q, k, v, mask=mask)[:, kept]

    grads = jax.jit(jax.grad(lambda k, v: (seen(q, k, v) ** 2).sum(), (0, 1)))(k, v)
    for grad in map(np.asarray, grads):
        assert (grad[:, ~kept] == 0).all()
        assert (np.abs(grad[:, kept]).max((-2, -1)) > 0).all()
    other = [jnp.where(mask[0, 0, 0][:, None, None], x, 50.0) for x in (q, k, v)]
    np.testing.assert_allclose(seen(*other), seen(q, k, v), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attend", FUNCTIONS)
def test_nothing_to_attend_to_gives_zero(attend: Callable) -> None:
    q, k, v = qkv(2)
    mask = jnp.zeros((2, 1, 1, 17), bool).at[1].set(True)

    def loss(q, k, v):
        out = attend(q, k, v, mask=mask)
        return (out**2).sum(), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    assert (out[0] == 0).all()
    assert (out[1] != 0).all()
    assert all(jnp.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("attend", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(bias=jnp.zeros((1, 3, 17, 17))), "bias"),
        (dict(mask=jnp.ones((2, 1, 17, 17), bool)), "padding masks only"),
        (dict(mask=jnp.ones((2, 1, 1, 16), bool)), "padding masks only"),
        (dict(mask=jnp.ones((2, 1, 1, 17))), "boolean"),
        (dict(query=jnp.ones((3, 17, 3, HEAD_DIM))), "batch axes"),
        (dict(value=jnp.ones((2, 16, 3, HEAD_DIM))), "same heads"),
    ],
)
def test_what_linear_attention_cannot_honour_raises(
    attend: Callable, change: dict, message: str
) -> None:
    arguments = dict(zip(("query", "key", "value"), qkv(2), strict=True)) | change
    # The shape checker of the tests would stop some of these before the function does.
    plain = partial(attend.func, **attend.keywords) if isinstance(attend, partial) else attend
    plain = getattr(plain, "__wrapped__", plain)
    if isinstance(plain, partial):
        plain = partial(getattr(plain.func, "__wrapped__", plain.func), **plain.keywords)
    with pytest.raises(ValueError, match=message):
        plain(**arguments)


@pytest.mark.parametrize("attend", FUNCTIONS)
def test_bfloat16_is_close_to_float32(attend: Callable) -> None:
    x = qkv(2)
    run = jax.jit(attend)
    got = run(*(a.astype(jnp.bfloat16) for a in x))
    assert got.dtype == jnp.bfloat16
    exact = np.asarray(run(*x))
    np.testing.assert_allclose(
        got.astype(jnp.float32), exact, rtol=0, atol=0.03 * np.abs(exact).max()
    )


@pytest.mark.parametrize("attend", FUNCTIONS)
def test_examples_are_independent(attend: Callable) -> None:
    x, mates = qkv(2), qkv(2, seed=1)
    mixed = [a.at[1].set(10 * b[1]) for a, b in zip(x, mates, strict=True)]
    run = jax.jit(attend)
    assert (run(*x)[0] == run(*mixed)[0]).all()
    assert (run(*x)[1] != run(*mixed)[1]).any()


@pytest.mark.parametrize("attend", [performer, nystrom])
def test_the_reference_stabilizer_couples_examples(attend: Callable) -> None:
    x, mates = qkv(2), qkv(2, seed=1)
    mixed = [a.at[1].set(10 * b[1]) for a, b in zip(x, mates, strict=True)]
    run = jax.jit(partial(attend, stabilizer="batch"))
    assert (run(*x)[0] != run(*mixed)[0]).any()


def test_fits_flax_and_attention_dropout_is_ignored_there() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 11, 12))
    layer = nn.MultiHeadDotProductAttention(3, attention_fn=linear_attention, dropout_rate=0.5)
    variables = layer.init(jax.random.key(1), x, deterministic=True)
    params = variables["params"]
    q, k, v = (
        jnp.einsum("bnc,chd->bnhd", x, params[n]["kernel"]) for n in ("query", "key", "value")
    )
    expected = jnp.einsum("bnhd,hdc->bnc", linear_attention(q, k, v), params["out"]["kernel"])
    quiet: Any = layer.apply(variables, x, deterministic=True)
    np.testing.assert_allclose(quiet, expected, rtol=0, atol=1e-5)
    rngs = {"dropout": jax.random.key(2)}
    assert jnp.all(layer.apply(variables, x, deterministic=False, rngs=rngs) == quiet)
    usual = nn.MultiHeadDotProductAttention(3, dropout_rate=0.5)
    noisy: Any = usual.apply(variables, x, deterministic=False, rngs=rngs)
    assert jnp.any(noisy != usual.apply(variables, x, deterministic=True))


def flops(attend: Callable, side: int) -> float:
    shape = jax.ShapeDtypeStruct((1, side * side, 4, 32), jnp.float32)
    costs: Any = jax.jit(attend).lower(shape, shape, shape).compile().cost_analysis()
    return costs["flops"]


@pytest.mark.parametrize(
    ("attend", "growth"),
    [
        pytest.param(linear_attention, 4, id="linear"),
        pytest.param(
            lambda *x: performer_attention(*x, projection=jnp.ones((default_num_features(32), 32))),
            4,
            id="performer",
        ),
        pytest.param(nystrom_attention, 4, id="nystrom"),
        pytest.param(jax.nn.dot_product_attention, 16, id="softmax"),
    ],
)
def test_cost_in_length(attend: Callable, growth: int) -> None:
    small, middle, large = (flops(attend, side) for side in (32, 64, 128))
    # Of what depends on the length: the pseudo-inverse of Nyström is a constant besides.
    assert (large - middle) / (middle - small) == pytest.approx(growth, rel=0.08)
    assert large / middle == pytest.approx(growth, rel=0.08)


def test_projection_is_orthogonal_in_blocks_and_gaussian_in_length() -> None:
    rows = np.asarray(random_projection(jax.random.key(0), 4001, 16))
    assert rows.shape == (4001, 16)
    norms = np.linalg.norm(rows, axis=-1)
    unit = rows / norms[:, None]
    for start in range(0, 4001, 16):
        block = unit[start : start + 16]
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-5)
    # The squared length is chi-squared with 16 degrees of freedom: mean 16, variance 32.
    assert (norms**2).mean() == pytest.approx(16, abs=4 * (32 / 4001) ** 0.5)
    assert (norms**2).var() == pytest.approx(32, rel=0.15)
    assert abs(np.corrcoef(norms[:-1], norms[1:])[0, 1]) < 0.07


@pytest.mark.parametrize("taps", [1, 3, 33])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_token_convolution_equals_numpys(taps: int, batch: tuple) -> None:
    value = jax.random.normal(jax.random.key(0), (*batch, 23, 3, 5))
    kernel = jax.random.normal(jax.random.key(1), (taps, 3))

    def correlate(line: np.ndarray, head: int) -> np.ndarray:
        padded = np.pad(line, taps // 2)
        return np.correlate(padded, np.asarray(kernel)[:, head], "valid")

    expected = np.stack(
        [np.apply_along_axis(correlate, -2, np.asarray(value)[..., h, :], h) for h in range(3)], -2
    )
    np.testing.assert_allclose(
        jax.jit(token_convolution)(value, kernel), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("taps", "length"), [(3, 23), (33, 23), (33, 75)])
def test_token_convolutions_gradient_is_its_adjoint(taps: int, length: int) -> None:
    """The map is linear in each argument: <out(dv, dw), g> must equal <d, gradient of <out, g>>."""
    rngs = jax.random.split(jax.random.key(0), 5)
    value, dv, g = (jax.random.normal(r, (2, length, 3, 5)) for r in rngs[:3])
    kernel, dw = (jax.random.normal(r, (taps, 3)) for r in rngs[3:])

    @jax.jit
    def summed(value, kernel):
        return (token_convolution(value, kernel) * g).sum()

    grads = jax.jit(jax.grad(summed, (0, 1)))(value, kernel)
    along = summed(dv, kernel), summed(value, dw)
    np.testing.assert_allclose((grads[0] * dv).sum(), along[0], rtol=1e-4)
    np.testing.assert_allclose((grads[1] * dw).sum(), along[1], rtol=1e-4)
