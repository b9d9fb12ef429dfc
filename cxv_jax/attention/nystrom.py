"""Nyström attention: the softmax matrix from a few landmark tokens and a pseudo-inverse."""

from functools import partial
from typing import Literal

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments, check_stabilizer, widened, without_tokens
from cxv_jax.attention.pinv import identity_like, iterative_pinv
from cxv_jax.kernels import checkpoint, heads_first, product, softmax, softmax_product
from cxv_jax.kernels.landmarks import pad_front, run_means


def nystrom_attention(
    query: Float[Array, "*batch length heads head_dim"],
    key: Float[Array, "*batch length heads head_dim"],
    value: Float[Array, "*batch length heads value_dim"],
    bias: None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    num_landmarks: int = 64,
    pinv_iterations: int = 6,
    stabilizer: Literal["example", "batch"] = "example",
) -> Float[Array, "*batch length heads value_dim"]:
    r"""Self-attention through landmarks: ``out = A1 (pinv(A2) (A3 v))``.

    ``A1 = softmax(q kl^T)``, ``A2 = softmax(ql kl^T)``, ``A3 = softmax(ql k^T)`` with
    ``q <- head_dim^(-1/2) q``; landmarks ``ql``, ``kl`` are means over ``num_landmarks`` runs of
    consecutive tokens. With one token a landmark: softmax attention, up to the pseudo-inverse.

    Source: Xiong et al. 2021 (arXiv 2102.03902), eq. 13, and CNV's code. Differences: the product
    is taken from the right, which is cheaper; the pseudo-inverse starts from each example's own
    maximum (see :func:`iterative_pinv`); tokens added to make the length a multiple of the
    landmarks are masked (the reference lets them take part); at most one landmark a token.

    Cost: ``O(length * heads * num_landmarks * head_dim)`` time, ``O(length * num_landmarks)``
    memory, plus ``num_landmarks^3``; the backward pass keeps only query, key and value.

    Args:
      query: ``[..., length, heads, head_dim]``, as long as ``key``: landmarks pair up.
      key: ``[..., length, heads, head_dim]``.
      value: ``[..., length, heads, value_dim]``.
      bias: not supported, must be None.
      mask: padding mask ``[..., heads or 1, 1, length]``, True = attend.
      num_landmarks: landmarks, 64 in the paper.
      pinv_iterations: steps of the pseudo-inverse, 6 in the paper.
      stabilizer: ``"example"`` or ``"batch"`` (the reference), see :func:`iterative_pinv`.

    Returns:
      ``[..., length, heads, value_dim]`` in the type of ``value``; 0 where all keys are masked.

    Raises:
      ValueError: for a bias, a query-dependent mask, lengths that differ, fewer than 1 landmark,
        an unknown stabilizer, integers or ill-fitting shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> nystrom_attention(x, x, x, num_landmarks=16).shape
      (2, 100, 4, 8)
    """
    check_stabilizer(stabilizer)
    if num_landmarks < 1:
        raise ValueError(f"num_landmarks must be at least 1, got {num_landmarks}")
    key_mask = check_arguments(query, key, value, bias, mask)
    if (length := query.shape[-3]) != key.shape[-3]:
        raise ValueError(f"Nyström needs query and key of one length: {length}, {key.shape[-3]}")
    if (nothing := without_tokens(query, key, value)) is not None:
        return nothing
    # Around transposing and padding too, or the parts would be kept besides the whole.
    landmarks = min(num_landmarks, length) if isinstance(length, int) else num_landmarks
    attend = partial(_attend, landmarks, pinv_iterations, stabilizer)
    return checkpoint(attend)(query, key, value, key_mask)


def _attend(
    landmarks: int,
    pinv_iterations: int,
    stabilizer: Literal["example", "batch"],
    query: Array,
    key: Array,
    value: Array,
    key_mask: Array | None,
) -> Array:
    length, dtype = query.shape[-3], value.dtype
    query, key, value = widened(query, key, value)
    heads = [heads_first(x) for x in (query * query.shape[-1] ** -0.5, key, value)]
    (q, k, v), key_mask = pad_front(heads, landmarks, key_mask)
    mean, seen = run_means(landmarks, key_mask)
    scores = product("...nd,...md->...nm", q, mean(k))
    a2 = softmax(mean(scores), seen)  # The means of the scores: the scores of the means.
    if seen is not None:  # A landmark without tokens stands apart: identity in its row and column.
        a2 = jnp.where(seen[..., None] & seen[..., None, :], a2, identity_like(a2))
    context = softmax_product(product("...md,...nd->...mn", mean(q), k), v, key_mask)  # A3 v
    context = iterative_pinv(a2, pinv_iterations, stabilizer) @ context
    out = softmax_product(scores, context.astype(v.dtype), seen)  # A1 pinv(A2) A3 v
    return heads_first(out)[..., -length:, :, :].astype(dtype)
