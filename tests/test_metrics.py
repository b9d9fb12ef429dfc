"""Metrics against NumPy's count by hand, for any split into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import metrics

# Four times the same, ranked 1 2 3 4 5 0 6.
LOGITS = jnp.tile(jnp.array([2.0, 9.0, 8.0, 7.0, 6.0, 5.0, 1.0]), (4, 1))


def test_hits_counted_by_hand() -> None:
    """The labels stand first, second, fifth and sixth."""
    sums = metrics.batch_sums(LOGITS, jnp.array([1, 2, 5, 0]), jnp.array([0.5, 1.0, 2.0, 4.0]))
    assert {name: float(x) for name, x in sums.items()} == dict(loss=7.5, top1=1, top5=3, count=4)
    assert [sums[name].dtype for name in ("top1", "top5", "count")] == [jnp.int32] * 3
    assert metrics.means(sums) == dict(loss=7.5 / 4, top1=1 / 4, top5=3 / 4)


def test_padding_never_counts_whatever_its_loss() -> None:
    losses = jnp.array([0.5, jnp.nan, jnp.inf, 4.0])
    mask = jnp.array([1.0, 0.0, 0.0, 1.0])
    sums = metrics.batch_sums(LOGITS, jnp.array([1, 1, 1, 0]), losses, mask)
    assert {name: float(x) for name, x in sums.items()} == dict(loss=4.5, top1=1, top5=1, count=2)


def test_top5_of_few_classes_is_all_of_them() -> None:
    sums = metrics.batch_sums(jnp.eye(3), jnp.array([1, 1, 1]), jnp.zeros(3))
    assert (int(sums["top1"]), int(sums["top5"])) == (1, 3)


@pytest.mark.parametrize("batch", [1, 7, 40, 100])
def test_any_split_into_batches_gives_numpys_means(batch: int) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(100, 11)).astype(np.float32)
    labels, losses = draw.integers(0, 11, 100), draw.exponential(size=100).astype(np.float32)
    better = (logits > logits[np.arange(100), labels][:, None]).sum(1)  # Classes ranked before.
    parts = [slice(start, start + batch) for start in range(0, 100, batch)]
    sums = [metrics.batch_sums(*map(jnp.asarray, (logits[p], labels[p], losses[p]))) for p in parts]
    got = metrics.total(jax.device_get(sums))
    assert (got["top1"], got["top5"], got["count"]) == ((better < 1).sum(), (better < 5).sum(), 100)
    want = dict(loss=losses.mean(), top1=(better < 1).mean(), top5=(better < 5).mean())
    assert metrics.means(got) == pytest.approx(want, rel=1e-6)


def test_totals_are_exact_beyond_float32() -> None:
    """Counts above 2^24, and losses that float32 would swallow."""
    large = dict(loss=np.float32(2**24), top1=np.int32(2**24), top5=np.int32(2**30), count=2**30)
    small = dict(loss=np.float32(1), top1=np.int32(1), top5=np.int32(1), count=np.int32(1))
    got = metrics.total([large, *[small] * 3])
    assert got == dict(loss=2**24 + 3, top1=2**24 + 3, top5=2**30 + 3, count=2**30 + 3)
    assert type(got["top1"]) is int


def test_no_images_give_zero_and_no_division() -> None:
    assert metrics.means(dict(loss=0.0, top1=0, top5=0, count=0)) == dict(loss=0, top1=0, top5=0)
