"""Attention functions inside Flax's own multi-head attention, Linen's and NNX's."""

from collections.abc import Callable
from typing import Any

from jax import Array


def for_flax(attend: Callable[..., Array]) -> Callable[..., Array]:
    """``attend`` as the ``attention_fn`` of Linen's and NNX's ``MultiHeadAttention``.

    What asks for nothing is dropped: a generator or rate of dropout that is off, and ``dtype``,
    ``precision``, ``broadcast_dropout``, ``force_fp32_for_softmax``, ``promote_dtype`` (products
    accumulate in float32 anyway). The rest is refused: where Linen is given an attention function
    itself, it ignores in silence what the function does not name.

    Key masks of ``flax.linen.make_attention_mask(jnp.ones((batch, 1)), key_mask)`` are taken, in
    any type: as in Flax, a key counts unless its entry is 0.

    Args:
      attend: a function of this package; those with settings as ``functools.partial(...)``.

    Returns:
      A function that also takes what Flax passes on. It raises ``ValueError`` for dropout that is
      on, for weights to be sown, for ``is_causal``, for einsums, and for a mask that depends on the
      query.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from cxv_jax.attention import linear_attention
      >>> layer = nn.MultiHeadAttention(num_heads=4, attention_fn=for_flax(linear_attention))
      >>> x = jnp.ones((2, 100, 32))
      >>> layer.init_with_output(jax.random.key(0), x)[0].shape
      (2, 100, 32)
    """

    # Linen passes on what is named here, and only that.
    def attention(
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        *,
        dropout_rng: Any = None,
        dropout_rate: float = 0.0,
        broadcast_dropout: bool = True,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        promote_dtype: Any = None,
        force_fp32_for_softmax: bool = False,
        qk_attn_weights_einsum: Any = None,
        attn_weights_value_einsum: Any = None,
        **others: Any,
    ) -> Array:
        if dropout_rate > 0 and not deterministic:
            raise ValueError(
                f"dropout_rate = {dropout_rate}: linear attention forms no weights to drop; set "
                "it to 0 and drop outputs instead, or pass deterministic=True"
            )
        others["qk_attn_weights_einsum"] = qk_attn_weights_einsum
        others["attn_weights_value_einsum"] = attn_weights_value_einsum
        _refuse(others)
        return attend(query, key, value, bias, _key_mask(mask))

    return attention


def _refuse(others: dict[str, Any]) -> None:
    asked = [name for name, value in others.items() if value is not None and value is not False]
    if "module" in asked:
        raise ValueError("sow_weights: linear attention forms no weights; leave it out")
    if asked:
        raise ValueError(f"linear attention cannot honour {', '.join(asked)}; leave it out")


def _key_mask(mask: Array | None) -> Array | None:
    """A mask with an axis of 1 in place of the queries', as booleans."""
    if mask is None:
        return None
    if mask.ndim >= 2 and mask.shape[-2] != 1:
        raise ValueError(
            f"a mask {mask.shape} may depend on the query, which linear attention cannot honour; "
            "make it by make_attention_mask(jnp.ones((batch, 1)), key_mask)"
        )
    return mask.astype(bool)
