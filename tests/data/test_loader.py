"""Loaders: order, chunks, padding and resumption against the defining formulas."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.data import loader as loaders
from cxv_jax.data.loader import make_loader
from cxv_jax.data.resident import ResidentLoader
from cxv_jax.data.splits import Split
from cxv_jax.data.streaming import StreamingLoader
from cxv_jax.errors import InputError
from tests import quick_jax

NUMBER, BATCH, STEPS = 59, 8, 7
KINDS = pytest.mark.parametrize("kind", ["resident", "streaming"])


def make_split(number: int = NUMBER) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (number, 5, 7, 3), np.uint8)
    return Split(images, np.arange(number, dtype=np.int32))


def make_sharding(devices: int) -> NamedSharding:
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    return NamedSharding(mesh, P("data"))


@pytest.fixture(params=[1, 8], ids=["1 device", "8 devices"])
def make(request):
    """A loader of the test split on a mesh of 1 or 8 devices."""
    common = dict(batch_size=BATCH, seed=3, batch_sharding=make_sharding(request.param))
    return lambda **kwargs: make_loader(make_split(), **(common | kwargs))


def batches(loader, epoch: int = 0, start: int = 0) -> list[dict[str, np.ndarray]]:
    """All batches of an epoch, fetched inside jit as the training loop does."""
    step = jax.jit(
        lambda data, feed, i: loader.fetch(data, jax.tree.map(lambda x: x[i], feed)),
        static_argnums=2,
    )
    found = []
    with jax.transfer_guard("disallow"):
        for count, feed in loader.epoch(epoch, start):
            assert {x.shape[0] for x in jax.tree.leaves(feed)} == {count}
            found += [step(loader.data, feed, i) for i in range(count)]
    for array in jax.tree.leaves(found):
        assert len({s.data.shape[0] for s in array.addressable_shards}) == 1
        assert array.addressable_shards[0].data.shape[0] * len(array.devices()) == BATCH
    return jax.device_get(found)


def joined(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


@KINDS
@pytest.mark.parametrize("epoch", [0, 5])
def test_training_follows_the_formula(make, kind, epoch):
    loader = make(train=True, kind=kind)
    key = jax.random.fold_in(jax.random.key(3), epoch)
    order = np.asarray(jax.random.permutation(key, NUMBER))[: STEPS * BATCH]
    got = joined(batches(loader, epoch))
    assert loader.steps_per_epoch == STEPS
    assert got.keys() == {"image", "label"}
    assert got["image"].dtype == np.uint8
    assert got["label"].dtype == np.int32
    np.testing.assert_array_equal(got["label"], order)
    np.testing.assert_array_equal(got["image"], make_split().images[order])


@KINDS
def test_a_balanced_order_shows_every_class_equally_often(kind):
    """40, 16 and 8 images of the classes 0, 2 and 3: each is shown 21 or 22 times."""
    labels = np.repeat(np.array([0, 2, 3], np.int32), (40, 16, 8))
    split = Split(np.arange(64, dtype=np.uint8).reshape(64, 1, 1, 1).repeat(3, -1), labels)
    loader = make_loader(
        split,
        batch_size=BATCH,
        seed=3,
        batch_sharding=make_sharding(1),
        train=True,
        kind=kind,
        order_kind="balanced",
    )
    epochs = [joined(batches(loader, epoch)) for epoch in range(3)]
    for got in epochs:
        shown = np.bincount(got["image"][:, 0, 0, 0], minlength=64)
        counts = [shown[labels == label].sum() for label in (0, 2, 3)]
        assert sorted(counts) == [21, 21, 22]
        np.testing.assert_array_equal(labels[got["image"][:, 0, 0, 0]], got["label"])
        assert shown[:40].max() == 1
        for label in (2, 3):
            assert np.ptp(shown[labels == label]) <= 1
    assert (epochs[0]["image"] != epochs[1]["image"]).any()
    totals = np.sum([np.bincount(got["label"], minlength=4) for got in epochs], axis=0)
    assert totals.tolist() == [64, 0, 64, 64]


@KINDS
def test_evaluation_sees_every_example_once(make, kind):
    loader = make(train=False, kind=kind, steps_per_call=3)
    got = joined(batches(loader))
    assert loader.steps_per_epoch == STEPS + 1
    np.testing.assert_array_equal(got["mask"], np.arange(STEPS * BATCH + BATCH) < NUMBER)
    np.testing.assert_array_equal(got["image"][:NUMBER], make_split().images)
    np.testing.assert_array_equal(got["label"][:NUMBER], np.arange(NUMBER))


def test_an_evaluation_batch_may_be_larger_than_the_split():
    loader = make_loader(
        make_split(3), batch_size=BATCH, seed=0, batch_sharding=make_sharding(8), train=False
    )
    assert joined(batches(loader))["mask"].tolist() == [1] * 3 + [0] * 5


@KINDS
@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluation"])
def test_any_start_gives_the_rest_of_the_epoch(make, kind, train):
    loader = make(train=train, kind=kind, steps_per_call=2)
    whole, rest = batches(loader, 1), batches(loader, 1, start=4)
    assert len(rest) == len(whole) - 4 > 0
    jax.tree.map(np.testing.assert_array_equal, rest, whole[4:])


def test_chunks_are_whole_and_the_tail_is_single_steps(make):
    loader = make(train=True, kind="resident", steps_per_call=5)
    assert [count for count, _ in loader.epoch(0)] == [5, 1, 1]
    assert [count for count, _ in loader.epoch(0, start=5)] == [1, 1]
    jax.tree.map(
        np.testing.assert_array_equal, batches(loader), batches(make(train=True, kind="streaming"))
    )


def test_worker_processes_change_nothing():
    plain, workers = (
        make_loader(
            make_split(),
            batch_size=BATCH,
            seed=3,
            batch_sharding=make_sharding(8),
            train=True,
            kind="streaming",
            workers=number,
        )
        for number in (0, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, batches(workers, 2, 3), batches(plain, 2, 3))


def test_streaming_reads_ahead_of_the_device(make, monkeypatch):
    loader = make(train=True, kind="streaming")
    put, asked = loader._put, []

    def counted(batch):
        asked.append(0)
        return put(batch)

    monkeypatch.setattr(loader, "_put", counted)
    feeds = loader.epoch(0)
    assert [(next(feeds)[0], len(asked)) for _ in range(3)] == [(1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize(
    ("memory", "chosen"), [(3 * NUMBER * 105, ResidentLoader), (2 * NUMBER * 105, StreamingLoader)]
)
def test_auto_is_resident_while_the_set_fits_its_share(make, monkeypatch, memory, chosen):
    monkeypatch.setattr(loaders, "device_memory", lambda: memory)
    assert type(make(train=True, kind="auto", memory_share=0.4)) is chosen


def test_a_device_has_a_plausible_memory():
    assert 2**24 < loaders.device_memory() < 2**50


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(batch_size=12), "batch_size=12 must be a multiple of the 8 devices"),
        (dict(batch_size=0), "batch_size=0"),
        (dict(batch_size=64), "batch_size=64 is larger than the 59 training images"),
        (dict(kind="magic"), "resident or streaming, got 'magic'"),
    ],
)
def test_bad_arguments(kwargs, message):
    common = dict(batch_size=BATCH, seed=3, batch_sharding=make_sharding(8), train=True)
    with pytest.raises(InputError, match=message):
        make_loader(make_split(), **(common | kwargs))


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="no images"):
        make_loader(
            make_split(0), batch_size=8, seed=0, batch_sharding=make_sharding(1), train=False
        )


PROCESS = """
import sys, jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from cxv_jax.data.loader import make_loader
from cxv_jax.data.splits import Split

class Counted:
    image_shape, seen = (1, 1, 3), 0
    def __len__(self): return 20
    def __getitem__(self, index):
        Counted.seen += len(index)
        return np.asarray(index, np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
for kind in ("resident", "streaming"):
    Counted.seen = 0
    loader = make_loader(Split(Counted(), np.arange(20, dtype=np.int32)), batch_size=4, seed=1,
        batch_sharding=NamedSharding(mesh, P("data")), train=True, kind=kind)
    step = jax.jit(lambda data, feed: loader.fetch(data, jax.tree.map(lambda x: x[0], feed)))
    rows = [step(loader.data, feed) for _, feed in loader.epoch(0)]
    print(kind, Counted.seen, [r["label"].addressable_shards[0].data.tolist() for r in rows],
        [r["image"].addressable_shards[0].data[:, 0, 0, 0].tolist() for r in rows])
"""


def test_each_process_streams_only_its_own_rows():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": quick_jax.flags()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split("\n") for process in processes]
    key = jax.random.fold_in(jax.random.key(1), 0)
    order = np.asarray(jax.random.permutation(key, 20)).reshape(5, 2, 2)
    for i, lines in enumerate(outputs):
        rows = order[:, i].tolist()
        assert lines[:2] == [f"resident 20 {rows} {rows}", f"streaming 10 {rows} {rows}"]
