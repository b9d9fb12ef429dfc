"""Attention functions inside Linen's and NNX's multi-head attention, against the plain products."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cxv_jax.attention import (
    for_flax,
    linear_attention,
    nystrom_attention,
    performer_attention,
    random_projection,
)

performer = partial(performer_attention, projection=random_projection(jax.random.key(5), 16, 4))
FUNCTIONS = [linear_attention, performer, partial(nystrom_attention, num_landmarks=5)]
NAMES = ["linear", "performer", "nystrom"]
X = jax.random.normal(jax.random.key(0), (2, 11, 12))
KEPT = jnp.arange(11)[None] < jnp.array([[11], [7]])  # The second example has four keys less.
MASK = nn.make_attention_mask(jnp.ones((2, 1)), KEPT)


def linen(attend: Callable, x: jax.Array, mask: Any = None, **settings: Any) -> tuple[Any, Any]:
    layer = nn.MultiHeadDotProductAttention(3, attention_fn=for_flax(attend), **settings)
    return layer.init_with_output(jax.random.key(1), x, mask=mask, deterministic=True)


def nnx_layer(attend: Callable, **settings: Any) -> nnx.MultiHeadAttention:
    options = {"decode": False, "rngs": nnx.Rngs(0), **settings}
    return nnx.MultiHeadAttention(3, 12, attention_fn=for_flax(attend), **options)


def by_hand(attend: Callable, x: jax.Array, params: Any, mask: Any) -> jax.Array:
    """Projections, attention, projection: the biases begin at 0."""
    q, k, v = (
        jnp.einsum("bnc,chd->bnhd", x, params[name]["kernel"]) for name in ("query", "key", "value")
    )
    return jnp.einsum("bnhd,hdc->bnc", attend(q, k, v, mask=mask), params["out"]["kernel"])


@pytest.mark.parametrize("attend", FUNCTIONS, ids=NAMES)
def test_linen_computes_the_same(attend: Callable) -> None:
    for mask, plain in ((None, None), (MASK, KEPT[:, None, None])):
        got, variables = linen(attend, X, mask)
        want = by_hand(attend, X, variables["params"], plain)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attend", FUNCTIONS, ids=NAMES)
def test_nnx_computes_the_same(attend: Callable) -> None:
    layer = nnx_layer(attend)
    params = {
        n: {"kernel": getattr(layer, n).kernel[...]} for n in ("query", "key", "value", "out")
    }
    for mask, plain in ((None, None), (MASK, KEPT[:, None, None])):
        want = by_hand(attend, X, params, plain)
        np.testing.assert_allclose(layer(X, mask=mask), want, rtol=0, atol=1e-5)


def test_what_is_masked_does_not_count() -> None:
    got, _ = linen(linear_attention, X, MASK)
    other, _ = linen(linear_attention, X.at[1, 7:].set(100.0), MASK)
    np.testing.assert_allclose(other[1, :7], got[1, :7], rtol=0, atol=1e-5)
    for dtype in (bool, jnp.int32, jnp.bfloat16):
        same, _ = linen(linear_attention, X, MASK.astype(dtype))
        np.testing.assert_array_equal(same, got)


def test_neutral_arguments_are_dropped() -> None:
    plain, _ = linen(linear_attention, X)
    settings = {"dropout_rate": 0.5, "precision": "highest", "force_fp32_for_softmax": True}
    got, _ = linen(linear_attention, X, **settings, broadcast_dropout=False, dtype=jnp.float32)
    np.testing.assert_allclose(got, plain, rtol=0, atol=1e-5)
    quiet = nnx_layer(linear_attention, dropout_rate=0.5, deterministic=True)(X)
    np.testing.assert_array_equal(quiet, nnx_layer(linear_attention)(X))


def test_what_linear_attention_cannot_honour_is_refused() -> None:
    layer = nn.MultiHeadDotProductAttention(
        3, attention_fn=for_flax(linear_attention), dropout_rate=0.5
    )
    variables = layer.init(jax.random.key(1), X, deterministic=True)
    rngs = {"dropout": jax.random.key(2)}
    with pytest.raises(ValueError, match="dropout_rate = 0.5: linear attention forms no weights"):
        layer.apply(variables, X, deterministic=False, rngs=rngs)
    with pytest.raises(ValueError, match="dropout_rate = 0.5"):
        nnx_layer(linear_attention, dropout_rate=0.5)(X, deterministic=False)
    with pytest.raises(ValueError, match="sow_weights"):
        layer.apply(variables, X, deterministic=True, sow_weights=True, mutable="intermediates")
    with pytest.raises(ValueError, match="sow_weights"):
        nnx_layer(linear_attention)(X, sow_weights=True)
    with pytest.raises(ValueError, match="is_causal"):
        nnx_layer(linear_attention)(X, is_causal=True)
    with pytest.raises(ValueError, match="attn_weights_value_einsum"):
        linen(linear_attention, X, attn_weights_value_einsum_cls=lambda: jnp.einsum)
    for mask in (nn.make_causal_mask(X[..., 0]), nn.make_attention_mask(KEPT, KEPT)):
        with pytest.raises(ValueError, match="may depend on the query"):
            linen(linear_attention, X, mask)
        with pytest.raises(ValueError, match="may depend on the query"):
            nnx_layer(linear_attention)(X, mask=mask)
