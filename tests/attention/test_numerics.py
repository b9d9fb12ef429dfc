"""Attention where numbers are narrow, huge, missing or no floats."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.attention import (
    iterative_pinv,
    linear_attention,
    linformer_attention,
    nystrom_attention,
    performer_attention,
    random_projection,
    rotate,
)

LENGTH = 32
FUNCTIONS = [
    *(pytest.param(partial(linear_attention, rule=r), id=r) for r in ("elu", "mala", "rala")),
    pytest.param(linear_attention, id="softmax"),
    pytest.param(
        partial(performer_attention, projection=random_projection(jax.random.key(5), 16, 8)),
        id="performer",
    ),
    pytest.param(partial(nystrom_attention, num_landmarks=8), id="nystrom"),
    pytest.param(
        lambda *x: linformer_attention(*x, projection=mixture(x[1].shape[-3])), id="linformer"
    ),
]


def mixture(length: int) -> jax.Array:
    return jax.random.normal(jax.random.key(6), (length, 16)) * max(length, 1) ** -0.5


def qkv(length: int = LENGTH, batch: int = 2, dtype: Any = jnp.float32) -> list[jax.Array]:
    rngs = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(r, (batch, length, 2, 8)).astype(dtype) for r in rngs]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("attend", FUNCTIONS)
def test_narrow_types_are_within_a_percent_at_16384_tokens(attend: Callable, dtype: Any) -> None:
    x = qkv(16_384, 1, dtype)
    run = jax.jit(attend)
    got, want = run(*x), run(*(a.astype(jnp.float32) for a in x))
    assert got.dtype == dtype
    assert jnp.linalg.norm(got.astype(jnp.float32) - want) < 0.01 * jnp.linalg.norm(want)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("attend", FUNCTIONS)
def test_narrow_gradients_are_close_at_16384_tokens(attend: Callable, dtype: Any) -> None:
    """Of a sum, where those of the keys and values add up.

    Over tokens that are much alike the query's gradient is a small difference of large sums:
    rounding these to bfloat16, as GPUs multiply it, costs Performer 1.0 %.
    """
    limit = 0.02 if dtype == jnp.bfloat16 else 0.01

    def gradients(x: Any) -> Any:
        return jax.jit(jax.grad(lambda x: 8 * attend(*x).astype(jnp.float32).sum()))(x)

    x = qkv(16_384, 1, dtype)
    wide = gradients([a.astype(jnp.float32) for a in x])
    for got, want in zip(gradients(x), wide, strict=True):
        assert got.dtype == dtype
        assert jnp.linalg.norm(got.astype(jnp.float32) - want) < limit * jnp.linalg.norm(want)


@pytest.mark.parametrize("length", [64, 60])
@pytest.mark.parametrize("landmarks", [8, 64])
def test_nystroms_gradients_are_finite_for_huge_inputs(length: int, landmarks: int) -> None:
    def loss(*x: jax.Array) -> jax.Array:
        q, k, v = (1e10 * a for a in x)
        return (nystrom_attention(q, k, v, num_landmarks=landmarks) ** 2).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*qkv(length))
    assert all(jnp.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("attend", FUNCTIONS)
def test_a_nan_stays_in_its_example(attend: Callable) -> None:
    """In the backward pass too, which marks what it computes again by the gradient."""
    back = jax.jit(lambda x, g: jax.vjp(attend, *x)[1](g))
    x, g = qkv(), jnp.ones((2, LENGTH, 2, 8))
    spoilt = [a.at[0].set(jnp.nan) for a in x]
    for got, want in zip(back(spoilt, g.at[0].set(jnp.nan)), back(x, g), strict=True):
        np.testing.assert_array_equal(got[1], want[1])
        assert jnp.isnan(got[0]).all()


def unchecked(attend: Any) -> Any:
    """Without the tests' shape checker, which would refuse first."""
    if isinstance(attend, partial):
        return partial(unchecked(attend.func), **attend.keywords)
    return getattr(attend, "__wrapped__", attend)


@pytest.mark.parametrize(
    "attend",
    [*FUNCTIONS[:-1], partial(linformer_attention, projection=jnp.ones((LENGTH, 4)))],
)
def test_integers_are_refused(attend: Callable) -> None:
    q, k, v = (jnp.ones((2, LENGTH, 2, 8), jnp.int32) for _ in range(3))
    with pytest.raises(ValueError, match=r"^query must be floats, got int32[^\n]*$"):
        unchecked(attend)(q, k, v)
    with pytest.raises(ValueError, match=r"must be floats, got int32"):
        unchecked(rotate)(q)


RANK_TWO = np.random.default_rng(0).normal(size=(6, 2)) @ np.random.default_rng(1).normal(
    size=(2, 6)
)


# Compiled once for all matrices.
INVERSES: dict[int, Callable] = {
    n: jax.jit(partial(iterative_pinv, iterations=n)) for n in (6, 20, 50, 200)
}
GRADIENTS = {n: jax.jit(jax.grad(lambda a, f=f: f(a).sum())) for n, f in INVERSES.items()}


@pytest.mark.parametrize("steps", INVERSES)
@pytest.mark.parametrize(
    "matrix",
    [np.zeros((6, 6)), np.ones((6, 6)), RANK_TWO, np.diag([3.0, 2, 1, 1, 0, 0])],
    ids=["zero", "ones", "rank two", "diagonal"],
)
def test_pinv_of_singular_matrices_does_not_diverge(matrix: np.ndarray, steps: int) -> None:
    plain = jnp.asarray(matrix, jnp.float32)
    want = np.linalg.pinv(matrix, rcond=1e-6)
    pair = jnp.stack([plain, jnp.eye(6)])[:, None]  # [examples, heads, m, m]
    pinv = INVERSES[steps]
    np.testing.assert_allclose(pinv(pair)[0, 0], want, rtol=0, atol=2e-4)
    np.testing.assert_allclose(pinv(plain), want, rtol=0, atol=2e-4)
    assert np.isfinite(GRADIENTS[steps](plain)).all()


def test_pinvs_first_six_steps_are_the_plain_ones() -> None:
    a = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 3, 11, 11)), -1)
    z = jnp.swapaxes(a, -1, -2) / (
        a.sum(-1).max((-2, -1))[:, None, None, None] * a.sum(-2).max((-2, -1))[:, None, None, None]
    )
    eye = jnp.eye(11)[None, None]
    for _ in range(6):
        z = 0.25 * z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z)))
    np.testing.assert_array_equal(iterative_pinv(a), z)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_pinv_of_narrow_types_is_that_of_float32_rounded(dtype: Any) -> None:
    a = (jnp.eye(5) + 0.1 * jnp.arange(25.0).reshape(5, 5) / 25).astype(dtype)
    want = iterative_pinv(a.astype(jnp.float32), 20).astype(dtype)
    np.testing.assert_array_equal(iterative_pinv(a, 20), want)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_pinv_refuses_what_is_not_square(shape: tuple[int, ...]) -> None:
    plain: Any = getattr(iterative_pinv, "__wrapped__", iterative_pinv)
    with pytest.raises(ValueError, match="square matrices"):
        plain(jnp.ones(shape))
    with pytest.raises(ValueError, match="must be floats"):
        plain(jnp.ones((3, 3), int))
    with pytest.raises(ValueError, match="stabilizer must be"):
        plain(jnp.ones((3, 3)), stabilizer="exmaple")
