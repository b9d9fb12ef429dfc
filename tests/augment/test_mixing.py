"""Mixup and CutMix: images and targets alike, shares by the distribution in their papers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cxv_jax import augment
from cxv_jax.augment import mixing
from tests.augment.pictures import HEIGHT, WIDTH, make_images, one_hot


def test_mixup_mixes_images_and_targets_alike():
    images, targets = make_images(6), np.asarray(one_hot(6))
    mix = jax.jit(partial(augment.mixup, alpha=0.8))
    mixed, soft = mix(jax.random.key(3), jnp.array(images), jnp.array(targets))
    share = float(soft[1, 1])  # The partner, image 4, is of another class.
    assert 0 < share < 1
    partner = images[::-1].astype(float)
    np.testing.assert_allclose(mixed, share * images + (1 - share) * partner, atol=1e-3)
    np.testing.assert_allclose(soft, share * targets + (1 - share) * targets[::-1], atol=1e-6)
    assert mixed.dtype == soft.dtype == jnp.float32


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_shares_follow_the_beta_distribution(alpha):
    u, v = jax.random.uniform(jax.random.key(0), (2, 4000))
    draw = jax.jit(jax.vmap(mixing.symmetric_beta, in_axes=(0, 0, None)))
    share = draw(u, v, jnp.float32(alpha))
    # Compared in the middle: a float32 next to 1 cannot hold what Beta(0.1, 0.1) puts there.
    middle = np.asarray(share)[(share > 1e-3) & (share < 0.999)]
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf([1e-3, 0.999])
    assert abs(len(middle) / 4000 - (high - low)) < 0.04
    inside = stats.kstest(middle, lambda x: (beta.cdf(x) - low) / (high - low))
    assert inside.pvalue > 1e-3
    extremes = draw(jnp.array([0.0, 0.0, 0.5]), jnp.array([0.0, 0.5, 0.25]), jnp.float32(alpha))
    np.testing.assert_allclose(extremes[:2], [1, 0])
    np.testing.assert_allclose(extremes[2], 0.5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_labels_follow_the_area(seed):
    """Image i is filled with i, so every pixel tells where it comes from."""
    images = jnp.broadcast_to(jnp.arange(4)[:, None, None, None], (4, HEIGHT, WIDTH, 3))
    mixed, soft = jax.jit(partial(augment.cutmix, alpha=1.0))(
        jax.random.key(seed), images.astype(jnp.uint8), jnp.eye(4)
    )
    pasted = np.asarray(mixed[..., 0]) == np.arange(4)[::-1, None, None]
    kept = np.asarray(mixed[..., 0]) == np.arange(4)[:, None, None]
    assert (pasted ^ kept).all()
    box = np.outer(pasted[0].any(axis=1), pasted[0].any(axis=0))
    assert (pasted == box).all()  # One box, the same in every image.
    np.testing.assert_allclose(np.diag(soft), 1 - box.mean(), atol=1e-7)
    np.testing.assert_allclose(np.diag(soft[::-1]), box.mean(), atol=1e-7)


def test_cutmix_boxes_have_the_drawn_area():
    """Away from the border the box has sides √(1 - λ) of the image's."""
    box = mixing._pasted_box(jnp.float32(0.75), jnp.array([0.5, 0.5]), 40, 80)
    assert np.asarray(box.sum()) == 20 * 40
    assert np.asarray(box[0, 10:30, 20:60]).all()


def test_mixup_or_cutmix_takes_either_half_of_the_time():
    images = jnp.broadcast_to(jnp.array([0, 200])[:, None, None, None], (2, 16, 16, 1))
    mix = partial(augment.mixup_or_cutmix, mixup_alpha=4.0, cutmix_alpha=4.0)
    run = jax.jit(jax.vmap(mix, in_axes=(0, None, None)))
    mixed, soft = run(jax.random.split(jax.random.key(0), 400), images, jnp.eye(2))
    cut = np.isin(mixed, (0.0, 200.0)).all(axis=(1, 2, 3, 4))
    assert 150 < cut.sum() < 250  # 200 ± 5 deviations
    np.testing.assert_allclose(soft.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 1].mean(axis=(1, 2, 3)), 200 * soft[:, 1, 1], rtol=1e-5)
