"""Rotary positions against complex numbers, and the property they exist for."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax.attention import rotate

LENGTH, HEADS, DIM = 40, 2, 6


def test_pairs_turn_as_complex_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(3, LENGTH, HEADS, DIM)).astype(np.float32)
    angles = np.arange(LENGTH)[:, None, None] * 10000.0 ** -(np.arange(0, DIM, 2) / DIM)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    out = np.asarray(rotate(jnp.asarray(x)))
    np.testing.assert_allclose(out[..., ::2], turned.real, atol=1e-5)
    np.testing.assert_allclose(out[..., 1::2], turned.imag, atol=1e-5)


def test_scores_depend_on_distance_only() -> None:
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, DIM))
    query, key = (rotate(jnp.asarray(np.tile(x, (LENGTH, 1, 1)))) for x in (query, key))
    scores = np.asarray(query[:, 0] @ key[:, 0].T)
    for distance in (0, 1, 7):
        np.testing.assert_allclose(np.diag(scores, distance), scores[0, distance], atol=1e-4)
    assert abs(scores[0, 1] - scores[0, 7]) > 0.1


@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0,), ()])
def test_any_number_of_batch_axes(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(*shape, LENGTH, HEADS, DIM)).astype(np.float32)
    flat = jnp.asarray(x.reshape(int(np.prod(shape)), LENGTH, HEADS, DIM))
    np.testing.assert_array_equal(rotate(jnp.asarray(x)), rotate(flat).reshape(x.shape))


def test_odd_head_dim_is_refused() -> None:
    with pytest.raises(ValueError, match="even head_dim, got 5"):
        rotate(jnp.ones((3, 1, 5)))
