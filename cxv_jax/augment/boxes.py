"""Operations on random boxes: random resized crop, random erasing, cutout."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

ATTEMPTS = 10  # As in torchvision: boxes tried before an image falls back.


class Boxes(NamedTuple):
    """One box per image, in pixels."""

    top: Int[Array, " batch"]
    left: Int[Array, " batch"]
    height: Int[Array, " batch"]
    width: Int[Array, " batch"]


def sample_boxes(
    rng: PRNGKeyArray,
    image_shape: tuple[int, ...],
    area: tuple[float, float],
    ratio: tuple[float, float],
    fallback: tuple[int, int],
) -> Boxes:
    """Boxes inside ``[batch, height, width, …]`` images: area uniform, aspect ratio log-uniform.

    An image for which ten draws all stick out gets a centred box of the ``fallback`` size.
    """
    batch, height, width, *_ = image_shape
    uniform = jax.random.uniform(rng, (batch, 2 * ATTEMPTS + 2))
    target = height * width * (area[0] + uniform[:, :ATTEMPTS] * (area[1] - area[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    root = jnp.exp(0.5 * (low + uniform[:, ATTEMPTS:-2] * (high - low)))
    size = jnp.round(jnp.sqrt(target)[..., None] * jnp.stack([1 / root, root], axis=-1))
    size = size.astype(jnp.int32)  # [batch, attempts, 2]: height, width
    limit = jnp.array([height, width])
    fits = ((size > 0) & (size <= limit[None, None])).all(axis=-1)
    first = jnp.argmax(fits, axis=1)[:, None, None]
    found = fits.any(axis=1)[:, None]
    size = jnp.where(found, jnp.take_along_axis(size, first, axis=1)[:, 0], jnp.array([fallback]))
    room = limit[None] - size
    corner = jnp.where(found, jnp.floor(uniform[:, -2:] * (room + 1)).astype(jnp.int32), room // 2)
    return Boxes(corner[:, 0], corner[:, 1], size[:, 0], size[:, 1])


def random_resized_crop(
    rng: PRNGKeyArray,
    images: UInt8[Array, "batch height width channels"],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[Array, "batch height width channels"]:
    """Cut a random box out of each image and enlarge it bilinearly to the image's size.

    As torchvision's ``RandomResizedCrop``: ten draws per image, then the largest centred box of
    an allowed aspect ratio. The output has the input's size, so a crop is only ever enlarged
    and antialiasing has nothing to do.

    Args:
      rng: random key.
      images: pixels in 0..255.
      scale: least and greatest part of the image's area in the box, uniform.
      ratio: least and greatest width / height of the box, log-uniform.

    Returns:
      Images of the same size, rounded to whole levels.
    """
    _, height, width, _ = images.shape
    fallback = (
        min(height, round(width / ratio[0])),  # The image is too narrow ...
        min(width, round(height * ratio[1])),  # ... or too wide.
    )
    return crop_and_resize(images, sample_boxes(rng, images.shape, scale, ratio, fallback))


def crop_and_resize(
    images: UInt8[Array, "batch height width channels"], boxes: Boxes
) -> UInt8[Array, "batch height width channels"]:
    """Enlarge one box of each image to the image's size, bilinear, pixel centres at 1/2."""
    _, height, width, _ = images.shape
    rows = _interpolation(boxes.top, boxes.height, height)
    columns = _interpolation(boxes.left, boxes.width, width)
    highest = jax.lax.Precision.HIGHEST  # TPU and TF32 products would be off by a level.
    pixels = images.astype(jnp.float32)
    pixels = jnp.einsum("boh,bhwc->bowc", rows, pixels, precision=highest)
    pixels = jnp.einsum("bow,bhwc->bhoc", columns, pixels, precision=highest)
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


def _interpolation(
    start: Int[Array, " batch"], length: Int[Array, " batch"], size: int
) -> Float[Array, "batch size size"]:
    """Matrices [output, input] that stretch ``length`` pixels from ``start`` over ``size``."""
    start, length = start[:, None], length[:, None]
    position = (jnp.arange(size) + 0.5)[None] * length / size - 0.5
    position = start + jnp.clip(position, 0, length - 1)  # Nothing outside the box shows.
    return jnp.maximum(1 - jnp.abs(position[:, :, None] - jnp.arange(size)[None, None]), 0)


def random_erasing(
    rng: PRNGKeyArray,
    images: UInt8[Array, "batch height width channels"],
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: tuple[int, ...] = (0,),
) -> UInt8[Array, "batch height width channels"]:
    """Paint over one random box of each image with the given probability.

    Zhong et al., arXiv:1708.04896, with timm's ranges. It works on raw pixels, before the
    normalisation; timm's erasing with noise after it is left out. A box may span a whole side
    (timm: one pixel less).

    Args:
      rng: random key.
      images: pixels in 0..255.
      probability: that an image is touched.
      area: least and greatest part of the image's area, uniform.
      ratio: least and greatest width / height of the box, log-uniform.
      fill: level per channel (0..255), or one for all.

    Returns:
      The images; one for which ten draws do not fit stays whole.
    """
    box_rng, choice_rng = jax.random.split(rng)
    boxes = sample_boxes(box_rng, images.shape, area, ratio, fallback=(0, 0))
    chosen = jax.random.uniform(choice_rng, (len(images),)) < probability
    boxes = boxes._replace(height=jnp.where(chosen, boxes.height, 0))
    # As in the policies, the branch keeps XLA from computing the boxes anew for every pixel.
    return jax.lax.cond(chosen.any(), _paint, lambda i, *_: i, images, boxes, jnp.array(fill))


def cutout(
    rng: PRNGKeyArray,
    images: UInt8[Array, "batch height width channels"],
    size: int,
    fill: tuple[int, ...] = (0,),
) -> UInt8[Array, "batch height width channels"]:
    """Paint over a square whose centre is uniform on the image, so part of it may lie outside.

    DeVries and Taylor, arXiv:1708.04552.

    Args:
      rng: random key.
      images: pixels in 0..255.
      size: side of the square in pixels.
      fill: level per channel (0..255), or one for all.

    Returns:
      The images, each with a square painted over.
    """
    batch, height, width, _ = images.shape
    uniform = jax.random.uniform(rng, (batch, 2))
    top = jnp.floor(uniform[:, 0] * height).astype(jnp.int32) - size // 2
    left = jnp.floor(uniform[:, 1] * width).astype(jnp.int32) - size // 2
    side = jnp.full(batch, size)
    return _paint(images, Boxes(top, left, side, side), jnp.array(fill))


def inside(boxes: Boxes, height: int, width: int) -> Bool[Array, "batch height width"]:
    """Which pixels lie in the boxes."""
    top, left, box_height, box_width = (value[:, None] for value in boxes)
    y, x = jnp.arange(height)[None], jnp.arange(width)[None]
    rows = (y >= top) & (y < top + box_height)
    columns = (x >= left) & (x < left + box_width)
    return rows[:, :, None] & columns[:, None, :]


def _paint(images, boxes, fill):
    """The images with ``fill`` in the boxes."""
    mask = inside(boxes, *images.shape[1:3])[..., None]
    return jnp.where(mask, fill.astype(images.dtype).reshape(1, 1, 1, -1), images)
