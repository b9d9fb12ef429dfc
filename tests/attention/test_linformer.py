"""Linformer attention against softmax attention and its defining formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.attention import linformer_attention

BATCH, LENGTH, KV_LENGTH, HEADS, DIM, VALUE_DIM, PROJECTED = 2, 11, 13, 3, 5, 7, 4


def inputs(kv_heads: int = HEADS) -> tuple[jax.Array, ...]:
    numbers = np.random.default_rng(0)
    shapes = [
        (BATCH, LENGTH, HEADS, DIM),
        (BATCH, KV_LENGTH, kv_heads, DIM),
        (BATCH, KV_LENGTH, kv_heads, VALUE_DIM),
        (KV_LENGTH, PROJECTED),
    ]
    return tuple(jnp.asarray(numbers.normal(size=s), jnp.float32) for s in shapes)


def test_without_projection_it_is_softmax_attention() -> None:
    query, key, _, _ = inputs()
    out = linformer_attention(query, key, key, projection=jnp.eye(KV_LENGTH))
    np.testing.assert_allclose(out, jax.nn.dot_product_attention(query, key, key), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, HEADS])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_formula(kv_heads: int, masked: bool) -> None:
    query, key, value, projection = inputs(kv_heads)
    kept = np.ones((BATCH, KV_LENGTH))
    if masked:
        kept[0, 9:] = 0
    mask = jnp.asarray(kept[:, None, None] > 0) if masked else None
    got = jax.jit(linformer_attention)(query, key, value, mask=mask, projection=projection)
    out, q, k, v, p = (np.asarray(x) for x in (got, query, key, value, projection))
    for b, h in np.ndindex(BATCH, HEADS):
        shared = min(h, kv_heads - 1)
        mix = p.T * kept[b]
        keys, values = mix @ k[b, :, shared], mix @ v[b, :, shared]
        weights = np.exp(q[b, :, h] @ keys.T / np.sqrt(DIM))
        want = weights @ values / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(out[b, :, h], want, rtol=1e-4, atol=1e-4)


def test_ill_fitting_arguments_are_refused() -> None:
    query, key, value, projection = inputs()
    with pytest.raises(ValueError, match="does not fit key"):
        linformer_attention(query, key, value, projection=projection[:-1])
    with pytest.raises(ValueError, match="1 head or the query's 3, got 2"):
        linformer_attention(query, key[:, :, :2], value[:, :, :2], projection=projection)
