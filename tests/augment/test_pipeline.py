"""The whole augmentation: each setting does its part, any size and layout, bad values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cxv_jax import augment
from cxv_jax.errors import InputError
from tests.augment.pictures import make_images, one_hot

STRONG: dict[str, Any] = {
    "flip": True,
    "crop_padding": 2,
    "policy": "trivial",
    "erase_probability": 0.25,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


def test_nothing_on_adds_nothing():
    images, targets = jnp.array(make_images(2)), one_hot(2)
    function = augment.make()
    assert all(
        a is b
        for a, b in zip(
            function(jax.random.key(0), images, targets), (images, targets), strict=True
        )
    )
    assert not jax.make_jaxpr(function)(jax.random.key(0), images, targets).eqns


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"flip": True}, 1 / 2),
        ({"crop_padding": 3}, 48 / 49),
        ({"random_resized_crop": 0.1}, 1),
        ({"policy": "trivial"}, 0.86),  # All but the identity and the neutral magnitudes.
        ({"policy": "rand", "rand_layers": 1, "rand_magnitude": 30}, 13 / 14),
        ({"erase_probability": 0.3}, 0.3),
    ],
)
def test_each_setting_changes_its_part_of_the_images(settings, changes):
    """Per image: equal images come out differently, and targets as they were."""
    images = jnp.array([make_images(1)[0]] * 256)
    run = jax.jit(augment.make(**settings))
    result, targets = run(jax.random.key(0), images, one_hot(256))
    changed = np.asarray((result != images).any(axis=(1, 2, 3)))
    assert abs(changed.mean() - changes) < 0.12
    assert len({np.asarray(image).tobytes() for image in result}) > 1
    np.testing.assert_array_equal(targets, one_hot(256))
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(run(jax.random.key(0), images, one_hot(256))[0], result)
    assert (run(jax.random.key(1), images, one_hot(256))[0] != result).any()


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 3), (2, 9, 1), (24, 11, 3)])
def test_strong_set_runs_at_any_size(height, width, channels):
    images = make_images(8, height=height, width=width, channels=channels)
    function = jax.jit(augment.make(random_resized_crop=0.2, **STRONG))
    result, targets = function(jax.random.key(0), jnp.array(images), one_hot(8))
    assert result.shape == images.shape
    assert result.dtype == jnp.float32
    assert 0 <= result.min() <= result.max() <= 255
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


def test_jit_equals_eager():
    images, targets = jnp.array(make_images(8)), one_hot(8)
    function = augment.make(**STRONG)
    for ours, theirs in zip(
        jax.jit(function)(jax.random.key(5), images, targets),
        function(jax.random.key(5), images, targets),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_sharded_over_devices_equals_one_device():
    images, targets = jnp.array(make_images(16)), one_hot(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    function = jax.jit(augment.make(**STRONG))
    alone = function(jax.random.key(7), images, targets)
    spread = function(jax.random.key(7), *jax.device_put((images, targets), sharding))
    for one, eight in zip(alone, spread, strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "trival"}, "unknown policy 'trival'.*did you mean 'trivial'"),
        ({"policy": "randaugment"}, "did you mean 'rand'"),
        ({"crop_padding": -1}, "crop_padding must be a whole number of at least 0, got -1"),
        ({"random_resized_crop": 1.1}, "random_resized_crop must be a number from 0 to 1, got 1.1"),
        ({"rand_layers": 0}, "rand_layers must be a whole number of at least 1"),
        ({"rand_magnitude": 31}, "rand_magnitude must be a whole number from 0 to 30"),
        ({"erase_probability": float("nan")}, "erase_probability must be .* got nan"),
        ({"mixup_alpha": -0.2}, "mixup_alpha must be a number of at least 0"),
        ({"cutmix_alpha": float("inf")}, "cutmix_alpha must be a number of at least 0, got inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message) as error:
        augment.make(**settings)
    assert "\n" not in str(error.value)
