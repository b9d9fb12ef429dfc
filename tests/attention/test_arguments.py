"""Empty arguments and those that do not fit: the empty result or one clear error."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models
from cxv_jax.attention import linformer_attention
from cxv_jax.errors import InputError
from tests.attention.test_numerics import FUNCTIONS


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


@pytest.mark.parametrize(
    ("name", "sizes"), [("cpv", {"depth": 1}), ("cvt_ms", {"depths": (1, 1, 1)})]
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
