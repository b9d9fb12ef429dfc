"""Policies against Pillow, operation by operation, and against torchvision's lists of them."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import augment
from cxv_jax.augment import policies
from cxv_jax.errors import InputError
from tests.augment.pictures import HEIGHT, WIDTH, make_images
from tests.augment.pillow import BINS, ENHANCERS, rand_space, signed, trivial_space, with_pillow


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operation_equals_pillow(name):
    """At every magnitude of both signs, on noise.

    Exact, but for autocontrast and the blends: they cut to whole levels, so where the exact
    result is whole a rounding error (fused multiply-add) shows as one level in some pixels.
    """
    batch = 2 * BINS
    magnitudes = np.resize(signed(name, trivial_space()[name]), batch).astype(np.float32)
    images = make_images(batch)
    images[0, :, :, 0] = 77  # A flat channel.
    operation = jnp.full(batch, policies.OPERATIONS.index(name))
    ours = jax.jit(policies.apply_operations)(jnp.array(images), operation, jnp.array(magnitudes))
    theirs = [
        with_pillow(name, float(m), image) for m, image in zip(magnitudes, images, strict=True)
    ]
    difference = np.abs(np.asarray(ours, int) - np.stack(theirs))
    cut = name == "autocontrast" or name in ENHANCERS
    assert difference.max() <= cut
    assert difference.mean() < (0.01 if name == "autocontrast" else 1e-3)
    assert name == "identity" or (np.stack(theirs) != images).any()


def test_grey_images_equal_pillow():
    names = [name for name in policies.OPERATIONS if name != "autocontrast"]
    images = make_images(len(names), channels=1)
    operation = jnp.array([policies.OPERATIONS.index(name) for name in names])
    magnitude = jnp.full(len(names), 0.4).at[names.index("posterize")].set(3)
    ours = jax.jit(policies.apply_operations)(jnp.array(images), operation, magnitude)
    for name, image, mine, m in zip(names, images[..., 0], ours, magnitude, strict=True):
        theirs = with_pillow(name, float(m), image)
        np.testing.assert_allclose(np.asarray(mine[..., 0], int), theirs, atol=name in ENHANCERS)


def test_trivial_augment_draws_torchvisions_operations_and_magnitudes():
    """Every image of 1024 is the work of one of them, and each does its share of the work."""
    image = make_images(1)[0]
    made = [
        (name, with_pillow(name, magnitude, image))
        for name, magnitudes in trivial_space().items()
        for magnitude in signed(name, magnitudes)
    ]
    results = [result for _, result in made]
    origins: dict[bytes, set[str]] = {result.tobytes(): set() for result in results}
    for name, result in made:
        origins[result.tobytes()].add(name)
    outputs = np.asarray(
        jax.jit(augment.trivial_augment_wide)(jax.random.key(0), jnp.array([image] * 1024))
    )
    found = [results[index].tobytes() for index in _nearest(outputs, results)]
    for name in policies.OPERATIONS:
        own = [origins[result.tobytes()] == {name} for maker, result in made if maker == name]
        count, mean = sum(origins[result] == {name} for result in found), 1024 / 14 * np.mean(own)
        assert abs(count - mean) <= 4 * mean**0.5, name


def _nearest(outputs, candidates):
    """Index of the candidate equal to each output, or within one level of it."""
    stack = np.stack(candidates).astype(np.int16)
    exact = {candidate.tobytes(): index for index, candidate in enumerate(candidates)}
    indices = []
    for output in outputs:
        index = exact.get(output.tobytes())
        if index is None:
            difference = np.abs(stack - output)
            index = difference.mean(axis=(1, 2, 3)).argmin()
            assert difference[index].max() <= 1
        indices.append(index)
    return indices


@pytest.mark.parametrize("layers", [1, 2])
def test_rand_augment_applies_layers_of_torchvisions_operations(layers):
    image, magnitude = make_images(1)[0], 17
    choices = [
        (name, m)
        for name, values in rand_space(HEIGHT, WIDTH).items()
        for m in signed(name, values[magnitude : magnitude + 1])
    ]
    expected = {image.tobytes(): image}
    for _ in range(layers):
        results = [
            with_pillow(name, m, start) for (name, m), start in product(choices, expected.values())
        ]
        expected = {result.tobytes(): result for result in results}
    function = jax.jit(partial(augment.rand_augment, num_layers=layers, magnitude=magnitude))
    outputs = np.asarray(function(jax.random.key(1), jnp.array([image] * 256)))
    known = [output.tobytes() in expected for output in outputs]
    # A level lost to rounding in the first layer may grow in the second.
    assert np.mean(known) > 0.8
    if layers == 2:
        assert len({output.tobytes() for output in outputs}) > 100  # One of two operations: 50.
    else:
        results = list(expected.values())
        assert set(_nearest(outputs, results)) == set(range(len(results)))


def test_policies_refuse_other_than_grey_or_colour_images():
    with pytest.raises(InputError, match="1 or 3 channels, got 4"):
        augment.trivial_augment_wide(jax.random.key(0), jnp.zeros((2, 8, 8, 4), jnp.uint8))
