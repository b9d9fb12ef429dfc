"""What data cost: augmentation against the train step, streaming against PyTorch's DataLoader.

``python -m benchmarks.data [--batch=16] [--rounds=7] [--json=FILE]`` prints a table. The parts of a
comparison take turns in one run, so other load falls on all of them; medians over the rounds.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import timed

IMAGES, STREAM_BATCH = 20_000, 128
STRONG = {  # The augmentation of the recipe `strong`.
    "flip": True,
    "crop_padding": 4,
    "policy": "trivial",
    "erase_probability": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}
WORKERS = (0, 2)  # Of PyTorch's loader; the faster counts.
Parts = dict[str, Callable[[], Any]]
Seconds = dict[str, list[float]]


def turns(parts: Parts, rounds: int) -> tuple[Seconds, Seconds]:
    """Wall and CPU seconds of every part in every round, the order reversed each time.

    One round goes before, unseen. CPU time is that of this process: other load bends it less.
    """
    wall: Seconds = {name: [] for name in parts}
    cpu: Seconds = {name: [] for name in parts}
    for i in range(-1, rounds):
        for name in parts if i % 2 else reversed(parts):
            before = time.process_time()
            taken = timed(parts[name])
            if i >= 0:
                wall[name].append(taken)
                cpu[name].append(time.process_time() - before)
    return wall, cpu


def ratios(seconds: Seconds, above: str, below: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile over the rounds."""
    pairs = zip(seconds[above], seconds[below], strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], method="inclusive")
    return low, middle, high


def resident_parts(batch: int) -> Parts:
    """The step on the same batch again, what brings and augments a batch, both as they train."""
    import jax

    from cxv_jax import augment
    from cxv_jax.config import base

    config = base("cpv", "random images")
    config.batch_size, config.ema_decay = batch, 0.999
    plain = _session(config, batch)
    config.phase1.augment.update(STRONG)
    strong = _session(config, 50_000)
    loader, change = strong.train_loader, augment.make(**config.phase1.augment)
    feeds = (feed for epoch in range(100) for _, feed in loader.epoch(epoch))
    (_, same), *_ = plain.train_loader.epoch(0)

    @jax.jit
    def bring(rng: Any, data: Any, feed: Any) -> Any:
        batch = loader.fetch(data, jax.tree.map(lambda x: x[0], feed))
        return change(rng, batch["image"], jax.nn.one_hot(batch["label"], 10))

    return {
        "step": _updating(plain, lambda: same),
        "input": lambda: jax.block_until_ready(bring(strong.rng, loader.data, next(feeds))),
        "both": _updating(strong, partial(next, feeds)),
    }


def _session(config: Any, count: int) -> Any:
    """A session on ``count`` random images."""
    from cxv_jax.data.splits import Dataset, Split
    from cxv_jax.session import Session

    names = tuple(map(str, range(10)))
    train = {"train": Split(*random_images(count))}
    return Session.of(config, dataset=Dataset("random images", names, train))


def _updating(session: Any, next_feed: Callable[[], Any]) -> Callable[[], None]:
    """One train step after the other."""
    import jax

    from cxv_jax.phase import Phase

    phase = session.phases[Phase.ONE]
    box = [phase.begin()]

    def run() -> None:
        arguments = (session.rng, session.train_loader.data, next_feed())
        box[0], sums = phase.update(box[0], *arguments)
        jax.block_until_ready((box[0], sums))

    return run


def streaming_parts(folder: Path) -> Parts:
    """An epoch of ours and of PyTorch's, both from memory-mapped files."""
    import jax

    from benchmarks import torch_loader
    from cxv_jax import augment, sharding
    from cxv_jax.data import sources
    from cxv_jax.data.loader import make_loader
    from cxv_jax.kernels import threefry

    images, labels = random_images(IMAGES)
    few = slice(0, 100)  # A test split, lest one is held out.
    np.savez(
        folder / "set.npz",
        images=images,
        labels=labels,
        test_images=images[few],
        test_labels=labels[few],
    )
    np.save(folder / "images.npy", images)
    split = sources.load(f"npz:{folder}/set.npz", val_fraction=0).split("train")
    assert isinstance(split.images, np.memmap)
    loader = make_loader(
        split,
        batch_size=STREAM_BATCH,
        seed=0,
        batch_sharding=sharding.batch_sharding(sharding.create_mesh()),
        train=True,
        kind="streaming",
    )
    change = augment.make(flip=True, crop_padding=torch_loader.PADDING)
    rng, epochs = threefry.key(0), iter(range(1000))

    @jax.jit
    def on_device(step: Any, feed: Any) -> Any:
        batch = loader.fetch({}, jax.tree.map(lambda x: x[0], feed))
        return change(jax.random.fold_in(rng, step), batch["image"], batch["label"][:, None] * 1.0)

    def ours() -> None:
        last = None
        for step, (_, feed) in enumerate(loader.epoch(next(epochs))):
            last, before = on_device(np.int32(step), feed), last
            jax.block_until_ready(before)  # One step late, as training.
        jax.block_until_ready(last)

    parts: Parts = {"ours": ours}
    for workers in WORKERS:
        theirs = torch_loader.make(folder / "images.npy", labels, STREAM_BATCH, workers)
        parts[f"torch {workers}"] = partial(count, theirs)
    return parts


def count(batches: Any) -> int:
    """Go through them all."""
    return sum(1 for _ in batches)


def random_images(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Incompressible 32x32 images and labels of ten classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 32, 32, 3), np.uint8)
    return images, (np.arange(number) % 10).astype(np.int32)


def resident_rows(batch: int, rounds: int) -> list[dict[str, str]]:
    """What the loader and the augmentation add to the step."""
    wall, cpu = turns(resident_parts(batch), rounds)
    share = ratios(wall, "input", "step")[1]
    longer = {
        name: "{1:+.1%} ({0:+.1%} to {2:+.1%})".format(*(r - 1 for r in ratios(s, "both", "step")))
        for name, s in (("wall", wall), ("CPU", cpu))
    }
    return [
        row(
            "CPV train step, published size",
            f"{batch / statistics.median(wall['step']):.1f} images/s",
        ),
        row("resident loader + strong augmentation / step", f"{share:.2%}", "at most 10 %"),
        row("step with them inside, more wall time (quartiles)", longer["wall"], "at most 10 %"),
        row("the same in CPU time", longer["CPU"]),
    ]


def streaming_rows(rounds: int) -> list[dict[str, str]]:
    """Streaming alone and against PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = turns(streaming_parts(Path(folder)), rounds)
    number = IMAGES // STREAM_BATCH * STREAM_BATCH
    rates = {name: number / statistics.median(taken) for name, taken in seconds.items()}
    best = min(WORKERS, key=lambda workers: statistics.median(seconds[f"torch {workers}"]))
    faster = ratios(seconds, f"torch {best}", "ours")[1]
    return [
        row("streaming, crop and flip", f"{rates['ours']:,.0f} images/s", "at least 20,000"),
        *(row(f"DataLoader, {w} workers", f"{rates[f'torch {w}']:,.0f} images/s") for w in WORKERS),
        row(
            f"streaming / DataLoader, {best} workers",
            f"{faster:.1f}",
        ),
    ]


def row(what: str, found: str, wanted: str = "") -> dict[str, str]:
    """A line of the table."""
    return {"what": what, "found": found, "wanted on 2 quiet cores": wanted}


def main() -> None:
    """Command line."""
    from benchmarks.side_by_side import markdown
    from cxv_jax.machine import environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="a file for the table")
    flags = parser.parse_args()
    load = os.getloadavg()[0]
    rows = streaming_rows(flags.rounds)
    rows += resident_rows(flags.batch, flags.rounds)
    print(markdown(rows))
    print(f"\nload average at the start {load:.1f} on {os.cpu_count()} cores")
    if flags.json:
        facts = {"rows": rows, "load_average": load, **environment()}
        flags.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    from cxv_jax.launch import allocator

    allocator.ensure()
    allocator.compute_inline()
    main()
