"""Mixup and CutMix: every image and its target are mixed with those of another image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from cxv_jax.augment.boxes import Boxes, inside

Mixed = tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]


def mixup(
    rng: PRNGKeyArray,
    images: Shaped[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    alpha: float,
) -> Mixed:
    """``λ · (image, target) + (1 - λ) · (partner's image, partner's target)``, λ ~ Beta(α, α).

    Zhang et al., arXiv:1710.09412. As in timm there is one λ per batch, and the partner of an
    image is its mirror place in the batch (the batch is shuffled anyway).

    Args:
      rng: random key.
      images: levels in 0..255.
      targets: class probabilities.
      alpha: > 0; the larger, the more even the mixtures.

    Returns:
      float32 images and targets.
    """
    return mixup_or_cutmix(rng, images, targets, mixup_alpha=alpha, cutmix_alpha=0.0)


def cutmix(
    rng: PRNGKeyArray,
    images: Shaped[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    alpha: float,
) -> Mixed:
    """Paste a box of the partner's image, of area 1 - λ; mix the targets by the area pasted.

    Yun et al., arXiv:1905.04899. As in timm there is one box per batch; its centre is uniform,
    λ ~ Beta(α, α), and where the box sticks out the targets follow what is really pasted.

    Args:
      rng: random key.
      images: levels in 0..255.
      targets: class probabilities.
      alpha: > 0; the larger, the more even the mixtures.

    Returns:
      float32 images and targets.
    """
    return mixup_or_cutmix(rng, images, targets, mixup_alpha=0.0, cutmix_alpha=alpha)


def mixup_or_cutmix(
    rng: PRNGKeyArray,
    images: Shaped[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    mixup_alpha: float,
    cutmix_alpha: float,
) -> Mixed:
    """Mixup or CutMix, whichever has α > 0; if both have, either with probability 1/2 per batch.

    Args:
      rng: random key.
      images: levels in 0..255.
      targets: class probabilities.
      mixup_alpha: α of mixup, or 0 for never.
      cutmix_alpha: α of CutMix, or 0 for never; one of the two must be > 0.

    Returns:
      float32 images and targets.
    """
    uniform = jax.random.uniform(rng, (5,))
    cut = uniform[0] < (0.5 if mixup_alpha and cutmix_alpha else float(cutmix_alpha > 0))
    share = symmetric_beta(uniform[1], uniform[2], jnp.where(cut, cutmix_alpha, mixup_alpha))
    pasted = _pasted_box(share, uniform[3:], *images.shape[1:3])
    share = jnp.where(cut, 1 - pasted.mean(), share)
    weight = jnp.where(cut, 1 - pasted.astype(jnp.float32), share)[..., None]
    return _blend(images.astype(jnp.float32), weight), _blend(targets, share)


def symmetric_beta(
    u: Float[Array, ""], v: Float[Array, ""], alpha: Float[Array, ""]
) -> Float[Array, ""]:
    """A draw of Beta(α, α) from two uniform numbers in [0, 1).

    ``1/2 + z / (2 √(1 + z²))`` with ``z = √(u^(-1/α) - 1) · cos 2πv``, rearranged so that nothing
    overflows at small α. Exact for every α > 0 (Bailey, Math. Comp. 62, 1994: z is a scaled
    Student t), without the rejection loop of ``jax.random.beta`` that takes a second to compile.
    """
    power, cosine = u ** (1 / alpha), jnp.cos(2 * jnp.pi * v)
    spread = (1 - power) * cosine**2
    return 0.5 + 0.5 * jnp.sign(cosine) * jnp.sqrt(spread / (power + spread))


def _pasted_box(
    share: Float[Array, ""], centre: Float[Array, " 2"], height: int, width: int
) -> Bool[Array, "1 height width"]:
    """The pixels of a box of 1 - share of the area about a centre in [0, 1)², clipped."""
    limit = jnp.array([height, width])
    size = jnp.floor(limit * jnp.sqrt(1 - share)).astype(jnp.int32)
    middle = jnp.floor(limit * centre).astype(jnp.int32)
    low, high = middle - size // 2, middle + size // 2
    boxes = Boxes(low[:1], low[1:], (high - low)[:1], (high - low)[1:])
    return inside(boxes, height, width)


def _blend(values, share):
    """``share`` of each entry and the rest of its mirror place in the batch."""
    return share * values + (1 - share) * values[::-1]
