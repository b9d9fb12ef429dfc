"""Depthwise convolution along the tokens."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.kernels.both_modes import both_modes
from cxv_jax.kernels.product import pad, product
from cxv_jax.kernels.recompute import recomputed


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

    Raises:
      ValueError: for an even number of taps, other heads, or integers.
    """
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] != value.shape[-2]:
        raise ValueError(
            f"expected a kernel [taps, {value.shape[-2]}] of an odd number of taps for value "
            f"{value.shape}, got {kernel.shape}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"value must be floats, got {value.dtype}: convert it to float32")
    return value if value.size == 0 else _convolution(value, kernel)


def _shift_and_add(value: Array, kernel: Array) -> Array:
    taps, length = kernel.shape[0], value.shape[-3]
    padded = pad(value, -3, taps // 2, taps - 1 - taps // 2)
    kernel = kernel.astype(value.dtype).reshape(taps, *(1,) * (value.ndim - 2), kernel.shape[1], 1)
    shifted = (
        kernel[t] * jax.lax.slice_in_dim(padded, t, t + length, axis=value.ndim - 3)
        for t in range(taps)
    )
    return sum(shifted, start=jnp.zeros_like(value))


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """The kernel's gradient from products of whole runs of tokens, of which it is the diagonals.

    Autodiff would multiply and add once for each tap, and keep all those products.
    """
    value, kernel = recomputed(saved, gradient)
    taps, run = kernel.shape[0], 32
    value = value.reshape(-1, *value.shape[-3:])
    cotangent, length = gradient.reshape(value.shape), value.shape[-3]
    span = run + taps - 1  # What a run of outputs reads, whole runs and a part of one.
    count, more = -(-length // run), -(-span // run)
    runs = _runs(pad(cotangent, -3, 0, count * run - length), run)
    padded = _runs(pad(value, -3, taps // 2, (count + more - 1) * run - length - taps // 2), run)
    windows = jnp.concatenate([padded[:, i : i + count] for i in range(more)], 2)[:, :, :span]
    products = product("bcnhd,bcmhd->hnm", runs, windows)
    diagonals = [jnp.trace(products, offset=t, axis1=1, axis2=2) for t in range(taps)]
    d_kernel = jnp.stack(diagonals).astype(kernel.dtype)
    return token_convolution(gradient, kernel[::-1]), d_kernel


_convolution = both_modes(_shift_and_add, _backward)


def _runs(x: Array, run: int) -> Array:
    return x.reshape(x.shape[0], -1, run, *x.shape[2:])
