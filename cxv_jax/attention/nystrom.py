"""Nyström attention: the softmax matrix from a few landmark tokens and a pseudo-inverse."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from cxv_jax.attention.arguments import check_arguments, heads_first
from cxv_jax.kernels import checkpoint
from cxv_jax.kernels.recompute import recomputed

MASKED = -1e30  # Finite, so that a fully masked row stays free of NaN.


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
    consecutive tokens. With one token a landmark this is softmax attention, up to the tolerance
    of the iterative pseudo-inverse.

    Source: Xiong et al. 2021 (arXiv 2102.03902), eq. 13, and CNV's code. Differences: the product
    is taken from the right, which is cheaper; the pseudo-inverse starts from each example's own
    maximum (see :func:`iterative_pinv`); tokens added to make the length a multiple of the
    landmarks are masked, where the reference lets zero tokens take part; no more landmarks than
    tokens are used.

    Cost: ``O(length * heads * num_landmarks * head_dim)`` time, ``O(length * num_landmarks)``
    memory, plus ``num_landmarks^3`` for the pseudo-inverse. The backward pass computes everything
    again and keeps only query, key and value.

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
        an unknown stabilizer or ill-fitting shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.ones((2, 100, 4, 8))
      >>> nystrom_attention(x, x, x, num_landmarks=16).shape
      (2, 100, 4, 8)
    """
    if stabilizer not in ("example", "batch"):
        raise ValueError(f"stabilizer must be 'example' or 'batch', got {stabilizer!r}")
    if num_landmarks < 1:
        raise ValueError(f"num_landmarks must be at least 1, got {num_landmarks}")
    key_mask = check_arguments(query, key, value, bias, mask)
    length = query.shape[-3]
    if length != key.shape[-3]:
        raise ValueError(f"Nyström needs query and key of one length: {length}, {key.shape[-3]}")
    # Around transposing and padding too, or the parts would be kept besides the whole.
    attend = partial(_attend, min(num_landmarks, length), pinv_iterations, stabilizer)
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
    query, length = query * query.shape[-1] ** -0.5, query.shape[-3]
    q, k, v, key_mask = _pad_front(
        [heads_first(x) for x in (query, key, value)], landmarks, key_mask
    )
    mean, seen = _landmark_mean(q.shape[-2], landmarks, key_mask)
    scores = _product("...nd,...md->...nm", q, mean(k))
    a1, rows1 = _softmax(scores, seen)
    a2, rows2 = _softmax(mean(scores), seen)  # The means of the scores: the scores of the means.
    a3, rows3 = _softmax(_product("...md,...nd->...mn", mean(q), k), key_mask)
    a2 = a2 / rows2  # The others are divided after their products, which are smaller.
    if seen is not None:  # A landmark without tokens stands apart: identity in its row and column.
        a2 = jnp.where(seen[..., None] & seen[..., None, :], a2, _eye_like(a2))
    context = _product("...mn,...ne->...me", a3.astype(v.dtype), v) / rows3
    context = iterative_pinv(a2, pinv_iterations, stabilizer) @ context
    out = _product("...nm,...me->...ne", a1.astype(v.dtype), context.astype(v.dtype)) / rows1
    return heads_first(out)[..., -length:, :, :].astype(value.dtype)


def iterative_pinv(
    matrix: Float[Array, "*batch heads m m"],
    iterations: int = 6,
    stabilizer: Literal["example", "batch"] = "example",
) -> Float[Array, "*batch heads m m"]:
    """Moore-Penrose inverse by ``Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4``.

    Starts from ``Z = A^T / (largest row sum * largest column sum)`` of ``|A|``; converges for any
    ``A``, to third order near the solution. Source: Razavi et al. 2014, used by Xiong et al. 2021,
    eq. 11. The reference takes both maxima over the batch (``stabilizer="batch"``); here they
    are over the heads of one example, so examples stay independent.

    Args:
      matrix: ``[..., heads, m, m]``, float32.
      iterations: number of steps.
      stabilizer: ``"example"`` or ``"batch"``.

    Returns:
      ``[..., heads, m, m]``.
    """
    axes = None if stabilizer == "batch" else (-2, -1)
    size = jnp.abs(matrix)
    rows = size.sum(-1).max(axes, keepdims=True)[..., None]
    columns = size.sum(-2).max(axes, keepdims=True)[..., None]
    eye = _eye_like(matrix)

    def step(z: Array, _: None) -> tuple[Array, None]:
        az = matrix @ z

        def horner(polynomial: Array, coefficient: Array) -> tuple[Array, None]:
            return coefficient * eye - az @ polynomial, None

        polynomial, _ = jax.lax.scan(horner, 7 * eye - az, jnp.array([15.0, 13.0], az.dtype))
        return 0.25 * z @ polynomial, None

    start = jnp.swapaxes(matrix, -1, -2) / (rows * columns)
    return jax.lax.scan(step, start, None, length=iterations)[0]


@jax.custom_vjp
def token_convolution(
    value: Float[Array, "*batch length heads head_dim"], kernel: Float[Array, "taps heads"]
) -> Float[Array, "*batch length heads head_dim"]:
    """Depthwise convolution along the tokens: ``out_n = sum_t kernel_t value_(n + t - taps // 2)``.

    The residual of Nyström attention (Xiong et al. 2021, section 3.3; 33 taps): zero outside the
    sequence, one kernel a head. A sum of shifted copies, with a written-out gradient: on a CPU far
    faster than a grouped convolution. Cost: ``O(length * taps)``.

    Args:
      value: ``[..., length, heads, head_dim]``.
      kernel: ``[taps, heads]``, an odd number of taps.

    Returns:
      ``[..., length, heads, head_dim]``.
    """
    taps, length = kernel.shape[0], value.shape[-3]
    padded = _pad(value, -3, taps // 2, taps - 1 - taps // 2)
    kernel = kernel.astype(value.dtype).reshape(taps, *(1,) * (value.ndim - 2), kernel.shape[1], 1)
    shifted = (
        kernel[t] * jax.lax.slice_in_dim(padded, t, t + length, axis=value.ndim - 3)
        for t in range(taps)
    )
    return sum(shifted, start=jnp.zeros_like(value))


def _token_convolution_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """The kernel's gradient from products of whole runs of tokens, of which it is the diagonals.

    Autodiff would multiply and add once for each tap, and keep all those products.
    """
    value, kernel = recomputed(saved, gradient)
    taps, run = kernel.shape[0], 32
    value = value.reshape(-1, *value.shape[-3:])
    cotangent, length = gradient.reshape(value.shape), value.shape[-3]
    span = run + taps - 1  # What a run of outputs reads, whole runs and a part of one.
    count, more = -(-length // run), -(-span // run)
    runs = _runs(_pad(cotangent, -3, 0, count * run - length), run)
    padded = _runs(_pad(value, -3, taps // 2, (count + more - 1) * run - length - taps // 2), run)
    windows = jnp.concatenate([padded[:, i : i + count] for i in range(more)], 2)[:, :, :span]
    products = _product("bcnhd,bcmhd->hnm", runs, windows)
    diagonals = [jnp.trace(products, offset=t, axis1=1, axis2=2) for t in range(taps)]
    d_kernel = jnp.stack(diagonals).astype(kernel.dtype)
    return token_convolution(gradient, kernel[::-1]), d_kernel


token_convolution.defvjp(
    lambda v, k: (token_convolution(v, k), (v, k)), _token_convolution_backward
)


def _pad_front(
    arrays: list[Array], landmarks: int, key_mask: Array | None
) -> tuple[Array, Array, Array, Array | None]:
    """Zero tokens in front until the landmarks divide the length; the mask hides them."""
    length = arrays[0].shape[-2]
    extra = -length % landmarks
    if extra:
        if key_mask is None:
            key_mask = jnp.ones((*(1,) * (arrays[0].ndim - 2), length), bool)
        arrays = [_pad(x, -2, extra, 0) for x in arrays]
        key_mask = _pad(key_mask, -1, extra, 0)
    q, k, v = arrays
    return q, k, v, key_mask


def _runs(x: Array, run: int) -> Array:
    return x.reshape(x.shape[0], -1, run, *x.shape[2:])


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _landmark_mean(
    length: int, landmarks: int, key_mask: Array | None
) -> tuple[Callable[[Array], Array], Array | None]:
    """Mean over runs of tokens (of those the mask keeps); which landmarks have any token."""

    def groups(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], landmarks, length // landmarks, x.shape[-1])

    if key_mask is None:
        return lambda x: groups(x).mean(-2), None
    kept = key_mask[..., None]
    count = groups(kept).sum(-2)
    divisor = jnp.maximum(count, 1)
    return lambda x: groups(x * kept).sum(-2) / divisor.astype(x.dtype), (count > 0)[..., 0]


def _softmax(scores: Array, key_mask: Array | None) -> tuple[Array, Array]:
    """Softmax before its division: exponentials, 0 where masked, and their row sums, not 0."""
    if key_mask is not None:
        scores = jnp.where(key_mask[..., None, :], scores, MASKED)
    # The maximum cancels, so its gradient is 0.
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if key_mask is not None:
        powers = powers * key_mask[..., None, :]
    sums = powers.sum(-1, keepdims=True)
    return powers, sums if key_mask is None else jnp.where(sums > 0, sums, 1)


def _eye_like(matrix: Array) -> Array:
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    return eye.reshape((1,) * (matrix.ndim - 2) + eye.shape)


def _product(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)
