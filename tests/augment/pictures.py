"""Images and targets for the tests of augmentation."""

import jax
import jax.numpy as jnp
import numpy as np

HEIGHT, WIDTH = 27, 31


def make_images(batch, seed=0, height=HEIGHT, width=WIDTH, channels=3):
    """Noise in a different range per image and channel, so that contrast has work to do."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 100, (batch, 1, 1, channels))
    high = low + rng.integers(60, 156, (batch, 1, 1, channels))
    return rng.integers(low, high, (batch, height, width, channels)).astype(np.uint8)


def one_hot(batch, classes=5):
    return jax.nn.one_hot(jnp.arange(batch) % classes, classes)
