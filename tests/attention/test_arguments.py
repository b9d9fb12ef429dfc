"""Empty arguments and those that do not fit: the empty result or one clear error."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models
from cxv_jax.attention import (
    linear_attention,
    linformer_attention,
    performer_attention,
    random_projection,
    token_convolution,
    token_weights,
)
from cxv_jax.errors import InputError
from tests.attention.test_numerics import FUNCTIONS, unchecked


@pytest.mark.parametrize("attend", FUNCTIONS)
@pytest.mark.parametrize(("batch", "q_length", "kv_length"), [(0, 5, 5), (2, 0, 0), (2, 5, 0)])
def test_nothing_gives_what_jaxs_attention_gives(
    attend: Callable, batch: int, q_length: int, kv_length: int, request: Any
) -> None:
    if "nystrom" in request.node.name and q_length != kv_length:
        q_length = kv_length  # Self-attention.
    q, (k, v) = jnp.ones((batch, q_length, 2, 8)), jnp.ones((2, batch, kv_length, 2, 8))
    want = jax.nn.dot_product_attention(q, k, v) if kv_length else jnp.zeros_like(q)
    np.testing.assert_array_equal(attend(q, k, v), want)
    gradients = jax.vjp(attend, q, k, v)[1](want)
    assert [g.shape for g in gradients] == [a.shape for a in (q, k, v)]


@pytest.mark.parametrize("attend", FUNCTIONS[:-1])
@pytest.mark.parametrize("shape", [(2, 3, 1, 5), (3, 2, 1, 5), (1, 2, 2, 1, 5)])
def test_a_mask_of_other_heads_is_refused(attend: Callable, shape: tuple[int, ...]) -> None:
    x = jnp.ones((2, 5, 2, 8))
    with pytest.raises(ValueError, match=r"a mask must broadcast to \(2, 2, 1, 5\), got"):
        attend(x, x, x, mask=jnp.ones(shape, bool))
    with pytest.raises(ValueError, match="a mask must broadcast"):
        linformer_attention(x, x, x, mask=jnp.ones(shape, bool), projection=jnp.ones((5, 2)))


@pytest.mark.parametrize("attend", FUNCTIONS[:-1])
def test_values_without_channels_are_empty_and_heads_without_are_refused(attend: Callable) -> None:
    x = jnp.ones((2, 5, 2, 8))
    total = jax.value_and_grad(lambda *x: attend(*x).sum(), (0, 1, 2))
    value, gradients = jax.eval_shape(total, x, x, x[..., :0])
    assert value.shape == ()
    assert [g.shape[-1] for g in gradients] == [8, 8, 0]
    with pytest.raises(ValueError, match=r"head_dim must be at least 1|does not fit query"):
        unchecked(attend)(x[..., :0], x[..., :0], x)


def test_a_projection_of_nothing_is_refused() -> None:
    x = jnp.ones((2, 5, 2, 8))
    with pytest.raises(ValueError, match=r"projection \(0, 8\) does not fit"):
        performer_attention(x, x, x, projection=jnp.ones((0, 8)))
    for features, head_dim in ((0, 8), (-3, 8), (4, 0)):
        with pytest.raises(ValueError, match="must be at least 1, got"):
            random_projection(jax.random.key(0), features, head_dim)


@pytest.mark.parametrize("shape", [(0, 5, 2, 8), (2, 0, 2, 8)])
def test_token_weights_and_convolution_of_nothing(shape: tuple[int, ...]) -> None:
    x = jnp.ones(shape)
    assert token_weights(linear_attention, x, x).shape == shape[:-1]
    assert token_convolution(x, jnp.ones((3, 2))).shape == shape


@pytest.mark.parametrize(
    ("value", "kernel", "message"),
    [
        (jnp.ones((5, 2, 8)), jnp.ones((4, 2)), "odd number of taps"),
        (jnp.ones((5, 2, 8)), jnp.ones((3, 1)), r"expected a kernel \[taps, 2\]"),
        (jnp.ones((5, 2, 8), int), jnp.ones((3, 2)), "value must be floats, got int32"),
    ],
)
def test_what_a_token_convolution_cannot_take(value: Any, kernel: Any, message: str) -> None:
    plain: Any = getattr(token_convolution, "__wrapped__", token_convolution)
    with pytest.raises(ValueError, match=message):
        plain(value, kernel)


@pytest.mark.parametrize(
    ("name", "sizes"), [("cpv", {"depth": 1}), ("cvt_ms", {"depths": (1, 1, 2)})]
)
def test_training_without_a_dropout_key_is_one_clear_error(
    name: str, sizes: dict[str, Any]
) -> None:
    model, image = models.create(name, **sizes), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    with pytest.raises(InputError, match="needs a random key for dropout"):
        jax.eval_shape(
            lambda v: model.apply(v, image, train=True, mutable=["batch_stats"]), variables
        )
