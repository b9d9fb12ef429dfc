"""Random parts of the shared trunk: what they drop, and how they scale what stays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cxv_jax.layers import DropPath
from cxv_jax.mixers import Softmax


def test_drop_path_drops_whole_examples() -> None:
    x = jnp.ones((64, 3, 2))
    out: Any = DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    kept = out[:, 0, 0] > 0
    np.testing.assert_allclose(out, np.broadcast_to(kept[:, None, None] / 0.75, x.shape), rtol=1e-6)
    assert 32 < kept.sum() < 64  # Expected: 48.
    np.testing.assert_array_equal(DropPath(0.25).apply({}, x, train=False), x)


def test_attention_dropout_drops_weights() -> None:
    rngs = {"dropout": jax.random.key(0)}
    query = key = jnp.asarray(np.random.default_rng(1).normal(size=(2, 30, 4, 30)), jnp.float32) / 4
    value = jnp.broadcast_to(jnp.eye(30)[None, :, None], (2, 30, 4, 30))  # Out: the weights.
    full: Any = Softmax(scale=0.7).apply({}, query, key, value)
    np.testing.assert_allclose(full.sum(-1), 1, rtol=1e-5)
    out: Any = Softmax(scale=0.7, dropout=0.25).apply({}, query, key, value, rngs=rngs)
    kept = out > 0
    np.testing.assert_allclose(out, np.where(kept, full / 0.75, 0), rtol=1e-5)
    assert 0.7 < kept.mean() < 0.8
