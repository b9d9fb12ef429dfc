"""TrivialAugmentWide and RandAugment: one of fourteen operations per image and layer.

A vmapped ``switch`` would run all fourteen on every image. Here the operations share three
steps, each neutral where the image's operation is another one: a warp, a blend, a look-up.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from cxv_jax.augment import color, geometry

MOTIONS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
TABLES = ("posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = ("identity", *MOTIONS, *BLENDS, *TABLES)
MAGNITUDE_BINS = 31


def trivial_augment_wide(
    rng: PRNGKeyArray, images: UInt8[Array, "batch height width channels"]
) -> UInt8[Array, "batch height width channels"]:
    """Apply to each image one operation, drawn uniformly, at a uniform magnitude.

    Müller and Hutter, arXiv:2103.10158, with the operations and the wide ranges of torchvision's
    ``TrivialAugmentWide`` (31 magnitudes, nearest neighbour, black where nothing is known).
    Translations reach 32 pixels at any image size, as there.

    Args:
      rng: random key.
      images: pixels in 0..255, one or three channels.

    Returns:
      The images, each after one operation (which may be the identity).

    Raises:
      InputError: if the images have neither one nor three channels.
    """
    space = _magnitudes(
        shear=0.99, translate_x=32, translate_y=32, rotate=135, blend=0.99, posterize=6
    )
    uniform = jax.random.uniform(rng, (3, len(images)))
    operation = _choose(uniform[0], len(OPERATIONS))
    magnitude = space[operation, _choose(uniform[1], MAGNITUDE_BINS)]
    return apply_operations(images, operation, _with_sign(uniform[2], operation, magnitude))


def rand_augment(
    rng: PRNGKeyArray,
    images: UInt8[Array, "batch height width channels"],
    num_layers: int = 2,
    magnitude: int = 9,
) -> UInt8[Array, "batch height width channels"]:
    """Apply to each image ``num_layers`` operations, drawn uniformly, at one fixed magnitude.

    Cubuk et al., arXiv:1909.13719, with the operations and ranges of torchvision's
    ``RandAugment`` (nearest neighbour, black where nothing is known).

    Args:
      rng: random key.
      images: pixels in 0..255, one or three channels.
      num_layers: operations one after another.
      magnitude: 0 (weakest) to 30.

    Returns:
      The images after their operations.

    Raises:
      InputError: if the images have neither one nor three channels.
    """
    batch, height, width, _ = images.shape
    across, down = 150 / 331 * width, 150 / 331 * height
    space = _magnitudes(
        shear=0.3, translate_x=across, translate_y=down, rotate=30, blend=0.9, posterize=4
    )
    uniform = jax.random.uniform(rng, (num_layers, 2, batch))
    for layer in range(num_layers):
        operation = _choose(uniform[layer, 0], len(OPERATIONS))
        level = _with_sign(uniform[layer, 1], operation, space[:, magnitude][operation])
        images = apply_operations(images, operation, level)
    return images


def apply_operations(
    images: UInt8[Array, "batch height width channels"],
    operation: Int[Array, " batch"],
    magnitude: Float[Array, " batch"],
) -> UInt8[Array, "batch height width channels"]:
    """Apply ``OPERATIONS[operation]`` to each image: at most one warp, one blend, one look-up.

    Args:
      images: pixels in 0..255, one or three channels.
      operation: index into ``OPERATIONS``, per image.
      magnitude: in the operation's own unit: slope, pixels, degrees, blend factor - 1, bits to
        keep, threshold; not used by identity, autocontrast, equalize.

    Returns:
      The images after their operations.
    """
    for step, names in ((_warp, MOTIONS), (_blend, BLENDS), (_look_up, TABLES)):
        first = OPERATIONS.index(names[0])
        needed = ((operation >= first) & (operation < first + len(names))).any()
        # Beyond the work it may save, the branch makes XLA keep the step's result; it would fuse
        # it into every read that follows and compute it again for each: four times slower on CPU.
        images = jax.lax.cond(needed, step, _skip, images, operation, magnitude)
    return images


def _skip(images, operation, magnitude):
    """The step that no image of the batch needs."""
    return images


def _warp(images, operation, magnitude):
    """Move the images whose operation is geometric."""

    def amount(name):
        return jnp.where(operation == OPERATIONS.index(name), magnitude, 0.0)

    matrices = geometry.affine_matrix(
        *images.shape[1:3],
        angle=jnp.radians(amount("rotate")),
        shear_x=amount("shear_x"),
        shear_y=amount("shear_y"),
        translate_x=jnp.trunc(amount("translate_x")),
        translate_y=jnp.trunc(amount("translate_y")),
    )
    return geometry.warp(images, matrices)


def _blend(images, operation, magnitude):
    """Blend the images whose operation is a blend."""
    grey = color.grey(images)
    degenerate = _select(
        operation,
        {
            "brightness": jnp.zeros((1, 1, 1, 1), jnp.int32),
            "color": grey,
            "contrast": color.mean_grey(grey),
            "sharpness": color.smooth(images),
        },
        default=images.astype(jnp.int32),
    )
    return color.enhance(images, degenerate, 1 + magnitude)


def _look_up(images, operation, magnitude):
    """Map the levels of the images whose operation is a table."""
    batch, _, _, channels = images.shape
    tables = _select(
        operation,
        {
            "posterize": color.posterize_tables(jnp.clip(magnitude, 0, 8).astype(jnp.int32)),
            "solarize": color.solarize_tables(magnitude),
            "autocontrast": color.autocontrast_tables(images),
            "equalize": color.equalize_tables(images),
        },
        default=jnp.broadcast_to(jnp.arange(256), (batch, channels, 256)),
    )
    return color.look_up(images, tables.astype(jnp.uint8))


def _select(operation, choices, default):
    """Per image, the choice named by its operation."""
    for name, choice in choices.items():
        chosen = operation == OPERATIONS.index(name)
        default = jnp.where(chosen.reshape(-1, *[1] * (default.ndim - 1)), choice, default)
    return default


def _choose(uniform, count):
    """Whole numbers below ``count`` from uniform numbers in [0, 1)."""
    return jnp.floor(uniform * count).astype(jnp.int32)


def _with_sign(uniform, operation, magnitude):
    """The magnitudes, those of half of the motions and blends negative."""
    negative = (uniform < 0.5) & (operation < OPERATIONS.index(TABLES[0]))
    return jnp.where(negative, -magnitude, magnitude)


def _magnitudes(*, shear, translate_x, translate_y, rotate, blend, posterize) -> Array:
    """The magnitude of each operation at each bin, [operation, bin]."""
    part = np.arange(MAGNITUDE_BINS) / (MAGNITUDE_BINS - 1)
    rows = {
        "shear_x": shear * part,
        "shear_y": shear * part,
        "translate_x": translate_x * part,
        "translate_y": translate_y * part,
        "rotate": rotate * part,
        **dict.fromkeys(BLENDS, blend * part),
        "posterize": 8 - np.round(posterize * part),
        "solarize": 255 * (1 - part),
    }
    return jnp.array([rows.get(name, 0 * part) for name in OPERATIONS], jnp.float32)
