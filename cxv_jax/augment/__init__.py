"""Image augmentation on the device: pure functions of ``(rng, images)`` for whole batches."""

from cxv_jax.augment.boxes import cutout, random_erasing, random_resized_crop
from cxv_jax.augment.color import normalise
from cxv_jax.augment.geometry import pad_and_crop, random_flip
from cxv_jax.augment.mixing import cutmix, mixup, mixup_or_cutmix
from cxv_jax.augment.pipeline import Augment, make
from cxv_jax.augment.policies import rand_augment, trivial_augment_wide

__all__ = [
    "Augment",
    "cutmix",
    "cutout",
    "make",
    "mixup",
    "mixup_or_cutmix",
    "normalise",
    "pad_and_crop",
    "rand_augment",
    "random_erasing",
    "random_flip",
    "random_resized_crop",
    "trivial_augment_wide",
]
