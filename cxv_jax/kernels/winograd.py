"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3): a quarter of the products."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from cxv_jax.kernels.both_modes import both_modes
from cxv_jax.kernels.dispatch import formulations
from cxv_jax.kernels.recompute import recomputed

# Lavin and Gray 2016 (arXiv 1509.09308), section 4.3: out = A^T ((G g G^T) * (B^T d B)) A.
B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
G = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float32
) / np.float32(24)
A_T = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)


def conv_3x3(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "3 3 channels features"]
) -> Float[Array, "batch height width features"]:
    """``out_{h,w,k} = sum_{i,j,c} kernel_{i,j,c,k} x_{h + i - 1, w + j - 1, c}``, 0 outside.

    XLA's convolution, except on a CPU in float32 with at least 32 channels on either side: there
    :func:`winograd`. With fewer, its transforms cost more than they save; its rounding is too
    coarse for narrower types, and a GPU has tensor cores.

    Args:
      x: ``[batch, height, width, channels]``, any height and width.
      kernel: ``[3, 3, channels, features]``.

    Returns:
      ``[batch, height, width, features]``.
    """
    if x.dtype != jnp.float32 or min(kernel.shape[2:]) < 32:
        return direct(x, kernel)
    return formulations(cpu=winograd, default=direct)(x, kernel)


def direct(x: Array, kernel: Array) -> Array:
    """XLA's convolution, the plain form of :func:`winograd`."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def winograd(x: Array, kernel: Array) -> Array:
    """:func:`direct` by 36 matrix products over all tiles.

    The image is cut into 4x4 tiles (6x6 with their borders); each becomes 36 numbers a channel.
    Sums of shifted slices, no gathers; rows first, then columns, or the program would consist of
    hundreds of small kernels. Keeps only ``x`` and ``kernel`` for the backward pass, which runs
    through the same transforms.
    """
    return _winograd(x, kernel)


def _by_tiles(x: Array, kernel: Array) -> Array:
    height, width = x.shape[1:3]
    products = jnp.einsum("ptc,pck->ptk", _input_tiles(x), _kernel_tiles(kernel))
    out = products.reshape(6, 6, x.shape[0], -(-height // 4), -(-width // 4), kernel.shape[-1])
    rows = jnp.stack(_combine(A_T, [out[i] for i in range(6)]), 3)  # [6, batch, tiles, 4, ...]
    out = jnp.stack(_combine(A_T, [rows[j] for j in range(6)]), 4)
    # [batch, tiles, 4, tiles, 4, features]
    batch, tall, _, wide, _, features = out.shape
    return out.reshape(batch, 4 * tall, 4 * wide, features)[:, :height, :width]


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    """The adjoint of each transform, in reverse."""
    x, kernel = recomputed(saved, gradient)
    products = _output_tiles(gradient)
    kernel_tiles = jnp.einsum("ptc,ptk->pck", _input_tiles(x), products)
    kernel_tiles = kernel_tiles.reshape(6, 6, *kernel.shape[2:])
    tiles = jnp.einsum("ptk,pck->ptc", products, _kernel_tiles(kernel))
    return _fold(tiles, x.shape), jnp.einsum("iy,jx,ijck->yxck", G, G, kernel_tiles)


_winograd = both_modes(_by_tiles, _backward)


def _combine(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """The matrix applied to a list of arrays: additions, and products with small constants."""
    return [_weighted_sum(row, parts) for row in matrix]


def _weighted_sum(weights: np.ndarray, parts: list[Array]) -> Array:
    terms = [float(w) * p for w, p in zip(weights, parts, strict=True) if w]
    return sum(terms[1:], start=terms[0])


def _kernel_tiles(kernel: Array) -> Array:
    return jnp.einsum("iy,jx,yxck->ijck", G, G, kernel).reshape(36, *kernel.shape[2:])


def _input_tiles(x: Array) -> Array:
    """``B^T d B`` of all 6x6 tiles: ``[36, batch * tiles, channels]``."""
    height, width, channels = x.shape[1:]
    tall, wide = 4 * -(-height // 4), 4 * -(-width // 4)
    x = jnp.pad(x, ((0, 0), (1, tall - height + 1), (1, wide - width + 1), (0, 0)))
    rows = jnp.stack(_combine(B_T, [x[:, i : i + tall - 3 : 4] for i in range(6)]))
    tiles = _combine(B_T, [rows[:, :, :, j : j + wide - 3 : 4] for j in range(6)])
    return jnp.stack(tiles, 1).reshape(36, -1, channels)


def _output_tiles(gradient: Array) -> Array:
    """``A d A^T`` of all 4x4 tiles, the adjoint of the output's transform."""
    height, width, features = gradient.shape[1:]
    gradient = jnp.pad(gradient, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
    rows = jnp.stack(_combine(A_T.T, [gradient[:, i::4] for i in range(4)]))
    tiles = _combine(A_T.T, [rows[:, :, :, j::4] for j in range(4)])
    return jnp.stack(tiles, 1).reshape(36, -1, features)


def _fold(tiles: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``B t B^T`` of all tiles where they overlap, the adjoint of the input's transform."""
    batch, height, width, channels = shape
    tiles = tiles.reshape(6, 6, batch, -(-height // 4), -(-width // 4), channels)
    rows = _overlap(_combine(B_T.T, [tiles[i] for i in range(6)]), axis=2)
    rows = rows.reshape(6, batch, -1, *rows.shape[4:])[:, :, 1 : height + 1]
    out = _overlap(_combine(B_T.T, [rows[j] for j in range(6)]), axis=2)
    return out.reshape(batch, height, -1, channels)[:, :, 1 : width + 1]


def _overlap(parts: list[Array], axis: int) -> Array:
    """Six lines of each tile to the four that start it; the last two start the next tile."""

    def shifted(part: Array, by: int) -> Array:
        widths = [(0, 0)] * part.ndim
        widths[axis] = (by, 1 - by)
        return jnp.pad(part, widths)

    lines = [shifted(part, 0) for part in parts[:4]]
    for i in (0, 1):
        lines[i] = lines[i] + shifted(parts[i + 4], 1)
    return jnp.stack(lines, axis + 1)
