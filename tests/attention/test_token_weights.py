"""Token weights against the explicit matrix of every attention, and without it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import attention
from cxv_jax.attention import token_weights

LENGTH, HEADS, WIDTH = 11, 2, 5


def drawn(length: int, width: int = WIDTH) -> tuple[jax.Array, jax.Array]:
    draw = np.random.default_rng(0)
    query, key = draw.normal(size=(2, 3, length, HEADS, width)).astype(np.float32)
    return jnp.asarray(query), jnp.asarray(key)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def matrix(rule: str, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """``A`` of one head, ``[query, key]``, from the formulas in words of NumPy."""
    if rule == "softmax":
        c = WIDTH**-0.25
        return softmax(c * q, 1) @ softmax(c * k, 0).T
    q, k = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (q, k))
    scores, s, mean = q @ k.T, WIDTH**-0.5, 1 / len(k)
    if rule == "rala":
        scores = scores * softmax(s * k @ q.mean(0), 0)
    weights = scores / scores.sum(1, keepdims=True)
    if rule == "mala":
        weights = weights + s * mean * (q @ (k - k.mean(0)).T)
    return weights


@pytest.mark.parametrize("rule", ["softmax", "elu", "mala", "rala"])
def test_they_are_the_column_means_of_the_explicit_matrix(rule: Any) -> None:
    query, key = drawn(LENGTH)
    attend = functools.partial(attention.linear_attention, rule=rule)
    found = token_weights(attend, query, key)
    assert found.shape == (3, LENGTH, HEADS)
    for example, head in np.ndindex(3, HEADS):
        q, k = (np.asarray(x[example, :, head], float) for x in (query, key))
        expected = matrix(rule, q, k).mean(0)
        np.testing.assert_allclose(found[example, :, head], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_they_are_those_of_softmax_attention_where_both_agree() -> None:
    """With one channel and queries of 1 the rule softmax is softmax attention."""
    _, key = drawn(LENGTH, 1)
    query = jnp.ones_like(key)
    linear = token_weights(attention.linear_attention, query, key)
    plain = token_weights(jax.nn.dot_product_attention, query, key)
    np.testing.assert_allclose(linear, plain, rtol=1e-5)
    np.testing.assert_allclose(linear, jax.nn.softmax(key[..., 0], axis=1), rtol=1e-5)


def performer() -> Callable[..., jax.Array]:
    projection = attention.random_projection(jax.random.key(0), 7, WIDTH)
    return functools.partial(attention.performer_attention, projection=projection)


@pytest.mark.parametrize("attend", [attention.linear_attention, performer()])
def test_no_matrix_of_all_pairs_is_made(attend: Any) -> None:
    length = 997
    program = jax.make_jaxpr(functools.partial(token_weights, attend))(*drawn(length))
    assert f"{length}" in str(program)
    assert f"{length},{length}" not in str(program)
    assert "997,997" in str(
        jax.make_jaxpr(functools.partial(token_weights, jax.nn.dot_product_attention))(
            *drawn(length)
        )
    )
