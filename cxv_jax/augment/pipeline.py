"""One augmentation function from a handful of settings."""

import math
from collections.abc import Callable
from functools import partial

import jax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from cxv_jax.augment import boxes, geometry, mixing, policies
from cxv_jax.errors import InputError, nearest

Batch = tuple[Shaped[Array, "batch height width channels"], Float[Array, "batch classes"]]
Stage = Callable[[PRNGKeyArray, Array], Array]
Augment = Callable[[PRNGKeyArray, Array, Array], Batch]

POLICIES = ("none", "trivial", "rand")


def make(
    *,
    flip: bool = False,
    crop_padding: int = 0,
    random_resized_crop: float = 0.0,
    policy: str = "none",
    rand_layers: int = 2,
    rand_magnitude: int = 9,
    erase_probability: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> Augment:
    """Build ``augment(rng, images, targets) -> (images, targets)`` for use inside a jitted step.

    The order is crop, flip, policy, erasing, mixing. What is off adds no operation.

    Args:
      flip: mirror half of the images left to right.
      crop_padding: pixels of black border before a crop to the old size; 0 is off.
      random_resized_crop: least part of the area in a random resized crop; 0 is off.
      policy: "none", "trivial" (TrivialAugmentWide) or "rand" (RandAugment).
      rand_layers: operations an image of RandAugment.
      rand_magnitude: its strength, 0 to 30.
      erase_probability: part of the images with a random box painted black.
      mixup_alpha: α of mixup; 0 is off.
      cutmix_alpha: α of CutMix; 0 is off. With both on, either with probability 1/2 per batch.

    Returns:
      A pure function of a key, uint8 images ``[batch, height, width, channels]`` and targets
      ``[batch, classes]``. It returns levels in 0..255, float32 if it mixes, else uint8.

    Raises:
      InputError: for a value out of range or an unknown policy.

    Example:
      >>> augment = make(flip=True, crop_padding=4, policy="trivial", cutmix_alpha=1.0)
      >>> images, targets = jax.numpy.zeros((8, 32, 32, 3), "uint8"), jax.numpy.eye(8)
      >>> [x.dtype.name for x in jax.jit(augment)(jax.random.key(0), images, targets)]
      ['float32', 'float32']
    """
    _check_policy(policy)
    _check_mixing(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
    _check_range("crop_padding", crop_padding, 0, whole=True)
    _check_range("random_resized_crop", random_resized_crop, 0, 1)
    _check_range("rand_layers", rand_layers, 1, whole=True)
    _check_range("rand_magnitude", rand_magnitude, 0, policies.MAGNITUDE_BINS - 1, whole=True)
    _check_range("erase_probability", erase_probability, 0, 1)
    stages: list[Stage] = []
    if random_resized_crop:
        stages.append(partial(boxes.random_resized_crop, scale=(random_resized_crop, 1.0)))
    if crop_padding:
        stages.append(partial(geometry.pad_and_crop, padding=crop_padding))
    if flip:
        stages.append(geometry.random_flip)
    if policy != "none":
        rand = partial(policies.rand_augment, num_layers=rand_layers, magnitude=rand_magnitude)
        stages.append(rand if policy == "rand" else policies.trivial_augment_wide)
    if erase_probability:
        stages.append(partial(boxes.random_erasing, probability=erase_probability))
    return partial(_run, tuple(stages), mixup_alpha, cutmix_alpha)


def _check_policy(policy: str) -> None:
    if policy not in POLICIES:
        raise InputError(f"augment: unknown policy {policy!r}{nearest(str(policy), POLICIES)}")


def _check_mixing(**alphas: float) -> None:
    for name, alpha in alphas.items():
        _check_range(name, alpha, 0)


def _run(
    stages: tuple[Stage, ...],
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: PRNGKeyArray,
    images: Array,
    targets: Array,
) -> Batch:
    for number, stage in enumerate(stages):
        images = stage(jax.random.fold_in(rng, number), images)
    if mixup_alpha or cutmix_alpha:
        mix_rng = jax.random.fold_in(rng, len(stages))
        return mixing.mixup_or_cutmix(mix_rng, images, targets, mixup_alpha, cutmix_alpha)
    return images, targets


def _check_range(
    name: str, value: float, low: float, high: float = math.inf, whole: bool = False
) -> None:
    """Refuse a number that is not in [low, high], or not whole."""
    kinds = int if whole else (int, float)
    if not (isinstance(value, kinds) and low <= value <= high and value < math.inf):
        number = "a whole number" if whole else "a number"
        wanted = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise InputError(f"augment: {name} must be {number} {wanted}, got {value!r}")
