"""Every augmentation has one argument order: ``(rng, images[, targets], options...)``."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import augment
from cxv_jax.augment import boxes, color, geometry, mixing, pipeline, policies
from tests.augment.pictures import make_images, one_hot

ORDER = ("rng", "images", "targets")
# Each augmentation that the package offers, with the options that have no default.
IMAGES: dict[str, dict[str, Any]] = {
    "cutout": {"size": 9},
    "pad_and_crop": {"padding": 3},
    "rand_augment": {},
    "random_erasing": {"probability": 0.5},
    "random_flip": {},
    "random_resized_crop": {},
    "trivial_augment_wide": {},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "cutmix": {"alpha": 1.0},
    "mixup": {"alpha": 1.0},
    "mixup_or_cutmix": {"mixup_alpha": 1.0, "cutmix_alpha": 1.0},
}
OTHERS = {"Augment", "make", "normalise"}


def functions() -> list[Any]:
    """The public functions of every file of the package."""
    files = (boxes, color, geometry, mixing, pipeline, policies)
    found = [
        pytest.param(function, id=f"{file.__name__.rpartition('.')[2]}.{name}")
        for file in files
        for name, function in vars(file).items()
        if inspect.isfunction(function) and function.__module__ == file.__name__
        if not name.startswith("_")
    ]
    assert len(found) > 20
    return found


def test_every_augmentation_stands_in_the_tables() -> None:
    assert {*IMAGES, *MIXTURES, *OTHERS} == set(augment.__all__)


@pytest.mark.parametrize("function", functions())
def test_key_images_targets_come_first_and_in_this_order(function: Callable) -> None:
    names = list(inspect.signature(function).parameters)
    known = [name for name in names if name in ORDER]
    assert known == [name for name in ORDER if name in names]
    assert names[: len(known)] == known
    assert not {"key", "seed", "image", "labels"} & set(names)


@pytest.mark.parametrize("name", [*IMAGES, *MIXTURES])
def test_all_that_comes_after_has_a_name_and_nothing_else_is_needed(name: str) -> None:
    parameters = inspect.signature(getattr(augment, name)).parameters
    arrays = ORDER[: 3 if name in MIXTURES else 2]
    assert tuple(parameters)[: len(arrays)] == arrays
    needed = {n for n, p in parameters.items() if p.default is p.empty}
    assert needed == {*arrays, *(IMAGES | MIXTURES)[name]}


@pytest.mark.parametrize("name", IMAGES)
def test_images_come_back_as_they_were_but_changed(name: str) -> None:
    """Same shape and type, by the key alone, each image in its own way."""
    images = jnp.array([make_images(1)[0]] * 64)
    run = jax.jit(partial(getattr(augment, name), **IMAGES[name]))
    first, again, other = (run(jax.random.key(seed), images) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == (images.shape, jnp.uint8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len({np.asarray(image).tobytes() for image in first}) > 1


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_give_float32_images_and_shares_that_sum_to_1(name: str) -> None:
    images, targets = jnp.array(make_images(8)), one_hot(8)
    run = jax.jit(partial(getattr(augment, name), **MIXTURES[name]))
    first, again, other = (run(jax.random.key(seed), images, targets) for seed in (0, 0, 1))
    assert first[0].shape == images.shape
    assert first[1].shape == targets.shape
    assert first[0].dtype == first[1].dtype == jnp.float32
    np.testing.assert_allclose(first[1].sum(axis=1), 1, atol=1e-6)
    for x, y, z in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(x, y)
        assert (x != z).any()
