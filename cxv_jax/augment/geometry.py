"""Flip, pad-and-crop, and one affine warp that serves shear, translation and rotation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt8

FRACTION_BITS = 16  # Pillow's nearest-neighbour warp counts in 1/65536 of a pixel.


def random_flip(
    rng: PRNGKeyArray, images: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Mirror each image left to right with probability 1/2.

    Args:
      rng: random key.
      images: pixels in 0..255.

    Returns:
      The images, some mirrored.
    """
    flip = jax.random.uniform(rng, (len(images), 1, 1, 1)) < 0.5
    return jnp.where(flip, images[:, :, ::-1], images)


def pad_and_crop(
    rng: PRNGKeyArray, images: UInt8[Array, "batch height width channels"], padding: int
) -> UInt8[Array, "batch height width channels"]:
    """Surround each image with ``padding`` black pixels and cut out a random window of its size.

    Args:
      rng: random key.
      images: pixels in 0..255.
      padding: pixels added on every side; the window's corner is uniform on the
        ``(2 padding + 1)²`` possible places, drawn per image.

    Returns:
      Images of the same size. The padded image is never built: one gather reads the window.
    """
    batch, height, width, _ = images.shape
    uniform = jax.random.uniform(rng, (batch, 2, 1, 1))
    offset = jnp.floor(uniform * (2 * padding + 1)).astype(jnp.int32) - padding
    rows = jnp.arange(height)[None, :, None] + offset[:, 0]
    columns = jnp.arange(width)[None, None, :] + offset[:, 1]
    return take_pixels(images, rows, columns)


def take_pixels(
    images: Shaped[Array, "batch height width channels"],
    rows: Int[Array, "batch #height #width"],
    columns: Int[Array, "batch #height #width"],
) -> Shaped[Array, "batch height width channels"]:
    """``out[b, y, x] = images[b, rows[b, y, x], columns[b, y, x]]``, black outside the image."""
    batch, height, width, channels = images.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = jnp.where(inside, rows * width + columns, height * width)  # The latter is black.
    pixels = jnp.pad(images.reshape(batch, height * width, channels), ((0, 0), (0, 1), (0, 0)))
    index = index.reshape(batch, height * width, 1)
    pixels = jnp.take_along_axis(pixels, index, axis=1, mode="promise_in_bounds")
    return pixels.reshape(images.shape)


def affine_matrix(
    height: int,
    width: int,
    *,
    angle: Float[Array, " batch"],
    shear_x: Float[Array, " batch"],
    shear_y: Float[Array, " batch"],
    translate_x: Float[Array, " batch"],
    translate_y: Float[Array, " batch"],
) -> Float[Array, "batch 2 3"]:
    """Matrices that take an output position (x, y, 1) to the input position it shows.

    At most one of the five motions of an image may differ from 0: they are not composed.

    Args:
      height: rows of the images.
      width: columns of the images.
      angle: radians, counter-clockwise, about the centre of the image.
      shear_x: columns of displacement per row, from the upper edge; content moves left.
      shear_y: rows of displacement per column, from the left edge; content moves up.
      translate_x: columns by which the content moves right.
      translate_y: rows by which the content moves down.

    Returns:
      Matrices in the convention of Pillow: the centre of the first pixel lies at (0.5, 0.5).
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    centre_x, centre_y = width / 2, height / 2
    shift_x = centre_x - cos * centre_x + sin * centre_y - translate_x
    shift_y = centre_y - sin * centre_x - cos * centre_y - translate_y
    rows = [[cos, shear_x - sin, shift_x], [shear_y + sin, cos, shift_y]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def warp(
    images: Shaped[Array, "batch height width channels"], matrices: Float[Array, "batch 2 3"]
) -> Shaped[Array, "batch height width channels"]:
    """Nearest-neighbour affine warp, black outside: ``out(p) = image(floor(A p + t))``.

    The arithmetic is the 16.16 fixed point of Pillow's ``Image.transform``, so equal matrices
    give equal images on every device. Coordinates must stay within ±32767 pixels.

    Args:
      images: the batch.
      matrices: output to input positions, as from ``affine_matrix``.

    Returns:
      The warped images, by one gather.
    """
    _, height, width, _ = images.shape
    start = matrices[:, :, 2] + (matrices[:, :, 0] + matrices[:, :, 1]) * 0.5
    start, step_x, step_y = (
        jnp.round(value * 2**FRACTION_BITS).astype(jnp.int32)[:, :, None, None]
        for value in (start, matrices[:, :, 0], matrices[:, :, 1])
    )
    x, y = jnp.arange(width)[None, None, None, :], jnp.arange(height)[None, None, :, None]
    position = (start + step_x * x + step_y * y) >> FRACTION_BITS  # [batch, 2, height, width]
    return take_pixels(images, position[:, 1], position[:, 0])
