"""Golden first steps of the recipe ``strong``, frozen: a change of the arithmetic shows here.

The config stands in the file beside the numbers, so that new defaults of the recipe do not matter.
Its seed mixes the first batch by mixup (65 % to 35 %), the second by CutMix (61 % to 39 %).
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxv_jax.config import base
from cxv_jax.data.splits import Dataset, Split
from cxv_jax.phase import Phase
from cxv_jax.session import Session

GOLDEN = Path(__file__).parent / "golden" / "strong_step.json"
RENEW = "RENEW_GOLDEN=1 python -m pytest tests/test_step_strong.py"
MESSAGE = f"""
The first training steps of a frozen `strong` no longer give the stored numbers: the arithmetic of
a step has changed (order of the images, augmentation, mixing, loss, model, optimizer or average).
If nobody meant that, it is a bug. If it is meant, say so in CHANGELOG.md and renew the numbers:
{RENEW}"""
STEPS = 2


def dataset() -> Dataset:
    """64 images of 16x16 in 10 classes, of a stream that NumPy keeps the same for ever."""
    draw = np.random.RandomState(0)
    images = draw.randint(0, 256, (64, 16, 16, 3)).astype(np.uint8)
    train = Split(images, np.arange(64, dtype=np.int32) % 10)
    return Dataset("frozen", tuple("0123456789"), {"train": train, "val": train, "test": train})


def measure(frozen: dict[str, Any]) -> dict[str, Any]:
    """Losses and hits of the first steps, then the norm of every gradient and of all changes."""
    config = base(frozen["model"]["name"], "frozen")
    config.update(frozen)
    session = Session.of(config, dataset=dataset(), devices=1)
    phase, loader = session.phases[Phase.ONE], session.train_loader
    start, now, steps = phase.begin(), phase.begin(), []
    for _, feed in list(loader.epoch(0))[:STEPS]:
        now, sums = phase.update(now, session.rng, loader.data, feed)
        steps.append({"loss": float(sums["loss"]), "top1": int(sums["top1"])})
    moments = optax.tree.get(now.opt_state, "mu")  # Of both gradients: 0.09 first + 0.1 second.
    moved = difference(now.params, start.params)
    return {
        "steps": steps,
        "gradients": {
            jax.tree_util.keystr(path, simple=True, separator="/"): norm(x)
            for path, x in jax.tree_util.tree_leaves_with_path(moments)
        },
        "parameters_moved_by": norm(moved),
        "of_it_along_themselves": float(optax.tree.vdot(moved, start.params)),  # Weight decay.
        "average_moved_by": norm(difference(now.ema["params"], start.params)),
    }


def difference(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.subtract, a, b)


def norm(tree: Any) -> float:
    return float(optax.tree.norm(tree))


def test_the_first_steps_of_strong_give_the_stored_numbers() -> None:
    stored = json.loads(GOLDEN.read_text())
    got = measure(stored["config"])
    if os.environ.get("RENEW_GOLDEN"):
        made_with = f"jax {jax.__version__} on a CPU: {RENEW}"
        renewed = {"made_with": made_with, "config": stored["config"], "numbers": got}
        GOLDEN.write_text(json.dumps(renewed, indent=1) + "\n")
        pytest.skip(f"{GOLDEN.name} is renewed: look at its diff before you commit it")
    want = stored["numbers"]
    assert str(jax.tree.structure(got)) == str(jax.tree.structure(want)), MESSAGE
    # A gradient that is zero in exact arithmetic is noise: hence the absolute tolerance.
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        assert x == pytest.approx(y, rel=1e-3, abs=1e-8), jax.tree_util.keystr(path) + MESSAGE
