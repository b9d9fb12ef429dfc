"""Properties that hold for any input: attention, augmentation, metrics, splits, records."""

import json
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxv_jax import augment, metrics
from cxv_jax.attention import linear_attention, nystrom_attention, performer_attention
from cxv_jax.attention import random_projection as projection
from cxv_jax.data.splits import Split, complete, hold_out
from cxv_jax.errors import InputError
from cxv_jax.journal import METRICS, Journal
from cxv_jax.jsonable import Record, read
from cxv_jax.records import Best, DataRecord, EpochRecord, HandoffRecord, Progress, Summary

# The checks of shapes draw names of their own when a record is made.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
SEEDS = st.integers(0, 2**32 - 1)
RECORDS: list[type[Record]] = [Best, DataRecord, EpochRecord, HandoffRecord, Progress, Summary]
AUGMENTS: dict[str, Any] = {}  # Compiled.
LENGTH, HEADS, DIM = 7, 2, 3
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KINDS = {
    "softmax": jax.jit(lambda q, k, v, m: linear_attention(q, k, v, None, m)),
    "mala": jax.jit(lambda q, k, v, m: linear_attention(q, k, v, None, m, rule="mala")),
    "performer": jax.jit(
        lambda q, k, v, m: performer_attention(
            q, k, v, None, m, projection=projection(jax.random.key(0), 5, DIM)
        )
    ),
    "nystrom": jax.jit(lambda q, k, v, m: nystrom_attention(q, k, v, None, m, num_landmarks=7)),
}


def qkv(seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(0, 2, (LENGTH, HEADS, DIM)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, hidden=st.sets(st.integers(0, LENGTH - 1), max_size=LENGTH - 1))
def test_hidden_keys_have_no_influence_on_attention(kind: str, seed: int, hidden: set[int]) -> None:
    query, key, value = qkv(seed)
    mask = np.ones((1, 1, LENGTH), bool)
    mask[..., list(hidden)] = False
    before = KINDS[kind](query, key, value, mask)
    for array in (key, value):
        array[list(hidden)] = 9.0
    np.testing.assert_allclose(KINDS[kind](query, key, value, mask), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nystrom"])
@given(seed=SEEDS, order=st.permutations(range(LENGTH)))
def test_attention_knows_no_order(kind: str, seed: int, order: list[int]) -> None:
    query, key, value = qkv(seed)
    mask = np.ones((1, 1, LENGTH), bool)
    before = np.asarray(KINDS[kind](query, key, value, mask))
    after = KINDS[kind](query[order], key[order], value[order], mask)
    np.testing.assert_allclose(after, before[order], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{"flip": True, "crop_padding": 2}, {"mixup_alpha": 0.8}])
@given(seed=SEEDS)
def test_augmentation_keeps_to_levels_and_shares(options: dict[str, Any], seed: int) -> None:
    change = AUGMENTS.setdefault(str(options), jax.jit(augment.make(**options)))
    images = np.random.default_rng(seed).integers(0, 256, (6, 5, 5, 3), np.uint8)
    found, shares = change(jax.random.key(seed), images, jnp.eye(6))
    assert found.shape == images.shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 255
    np.testing.assert_allclose(shares.sum(1), np.ones(6), rtol=1e-6)
    assert float(shares.min()) >= 0
    again, _ = change(jax.random.key(seed), images, jnp.eye(6))
    np.testing.assert_array_equal(found, again)


@given(seed=SEEDS, cuts=st.sets(st.integers(1, 19), max_size=3), padding=st.integers(0, 3))
def test_metrics_do_not_depend_on_the_batches(seed: int, cuts: set[int], padding: int) -> None:
    draw = np.random.default_rng(seed)
    logits = draw.permuted(np.arange(20 * 8).reshape(20, 8), axis=1).astype(np.float32)
    labels, losses = draw.integers(0, 8, 20), draw.random(20).astype(np.float32)
    sums = []
    for part in np.split(np.arange(20), sorted(cuts)):
        mask = np.r_[np.ones(len(part)), np.zeros(padding)].astype(np.float32)
        rows = np.r_[part, np.zeros(padding, int)]
        batch = (logits[rows], labels[rows], np.where(mask > 0, losses[rows], np.nan))
        with jax.disable_jit():  # As many shapes as there are batches.
            sums.append(metrics.batch_sums(*map(jnp.asarray, (*batch, mask))))
    found = metrics.total(sums)
    rank = (logits > logits[np.arange(20), labels][:, None]).sum(1)
    hits = {"top1": (rank < 1).sum(), "top5": (rank < 5).sum(), "count": 20}
    assert {name: found[name] for name in hits} == hits
    np.testing.assert_allclose(found["loss"], losses.sum(dtype=float), rtol=1e-6)


@given(
    counts=st.lists(st.integers(2, 30), min_size=2, max_size=6),
    seed=SEEDS,
    fraction=st.floats(0, 0.9),
    small=st.sampled_from(["split", "train"]),
)
def test_every_image_is_in_one_split(
    counts: list[int], seed: int, fraction: float, small: str
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    number = len(labels)
    images = np.zeros((number, 1, 1, 3), np.uint8)
    source = {"train": Split(images, labels.astype(np.int32), names=np.arange(number))}
    names = [f"class {i}" for i in range(len(counts))]
    cut = partial(complete, "x", names, source, seed=seed, val_per_class=0, subset_per_class=0)
    try:
        dataset = cut(val_fraction=fraction, small_classes=small)
    except InputError:
        assert (max(counts) if small == "train" else min(counts)) < 5
        return
    splits = dataset.splits.values()
    rows = [split.names for split in splits]
    assert sorted(np.concatenate(rows)) == list(range(number))
    for split, row in zip(splits, rows, strict=True):
        np.testing.assert_array_equal(split.labels, labels[row])
    assert set(dataset.splits["train"].labels) == set(range(len(counts)))


@given(labels=st.lists(st.integers(0, 3), max_size=40), seed=SEEDS, wanted=st.integers(0, 12))
def test_more_held_out_are_the_same_ones_and_others(
    labels: list[int], seed: int, wanted: int
) -> None:
    array = np.array(labels, int)
    fewer = hold_out(array, dict.fromkeys(range(4), wanted), seed)
    more = hold_out(array, dict.fromkeys(range(4), wanted + 1), seed)
    assert set(fewer[1]) <= set(more[1])
    for kept, held in (fewer, more):
        assert sorted([*kept, *held]) == list(range(len(labels)))
    assert all(labels.count(c) - (array[fewer[0]] == c).sum() == min(wanted, labels.count(c))
               for c in range(4))  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.data())
def test_records_come_back_as_they_were(kind: type[Record], data: st.DataObject) -> None:
    written = json.dumps(data.draw(st.builds(kind)).to_json())
    assert json.dumps(kind.from_json(json.loads(written)).to_json()) == written


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.data())
def test_only_one_line_leaves_a_damaged_record(kind: type[Record], data: st.DataObject) -> None:
    good = json.loads(json.dumps(data.draw(st.builds(kind)).to_json()))
    for name in data.draw(st.lists(st.sampled_from(sorted(good)), min_size=1, max_size=3)):
        good[name] = data.draw(JSON)
    for found in (good, data.draw(JSON)):
        with suppress(InputError):
            read(kind, found, "here")


@given(content=st.binary(max_size=60), lines=st.lists(JSON, max_size=3))
def test_only_one_line_leaves_damaged_metrics(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, lines: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    text = "".join(json.dumps({"kind": "epoch", "line": line}) + "\n" for line in lines)
    for written in (content, text.encode() + content, json.dumps(lines).encode() + b"\n"):
        (folder / METRICS).write_bytes(written)
        with suppress(InputError):
            Journal(folder).read()
