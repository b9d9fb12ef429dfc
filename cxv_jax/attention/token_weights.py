"""How much attention each token gets, in the time that attention itself takes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def token_weights(
    attend: Callable[..., Array],
    query: Float[Array, "*batch q_length heads head_dim"],
    key: Float[Array, "*batch kv_length heads head_dim"],
) -> Float[Array, "*batch kv_length heads"]:
    r"""The mean over the queries of what each token weighs: ``w_m = 1/N sum_n A_nm``.

    Any attention is linear in its values, ``out = A value``, so ``w = A^T 1/N`` is its transpose
    applied to one vector. Of linear attention that is
    ``w_m = phi(k_m) . (1/N sum_n phi(q_n) / (phi(q_n) . sum_m phi(k_m)))``: the features alone, and
    never the N x N matrix ``A``.

    Args:
      attend: ``(query, key, value) -> out``, e.g. :func:`.linear_attention`.
      query: ``[..., q_length, heads, head_dim]``.
      key: ``[..., kv_length, heads, head_dim]``.

    Returns:
      ``[..., kv_length, heads]``, float32; sums to 1 over the tokens where the rows of ``A`` do; 0
      without queries.
    """
    out, back = jax.vjp(lambda value: attend(query, key, value), jnp.zeros_like(key))
    if out.size == 0:
        return jnp.zeros(key.shape[:-1])
    mean = jnp.zeros_like(out).at[..., 0].set(1 / out.shape[-3])  # Over queries, in one channel.
    return back(mean)[0][..., 0].astype(jnp.float32)
