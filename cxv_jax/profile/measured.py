"""Images per second and energy, measured after warm-up."""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from cxv_jax.phase import Phase
from cxv_jax.profile.compiled import Program
from cxv_jax.profile.energy import EnergyMeter
from cxv_jax.session import Session

SHORTEST = 1.0  # Seconds of one repeat: enough for NVML, and for dispatch to reach a steady state.


def measure(
    session: Session, *, train: Program, forward: Program, repeats: int
) -> dict[str, float | None]:
    """Run both programs of a session.

    Args:
      session: of the training.
      train: from :func:`train_program`.
      forward: from :func:`forward_program`, for as many images as a step has.
      repeats: the rate is the median of so many, of at least a second each.

    Returns:
      ``train_images_per_second``, ``inference_images_per_second``, and the joules of 1,000 images
      ``train_joules_per_1000``, ``inference_joules_per_1000`` (None: not available).
    """
    state, loader = session.phases[Phase.ONE].begin(), session.train_loader
    steps, feed = next(iter(loader.epoch(0)))
    variables = jax.tree.map(np.asarray, state.variables())  # The state will be donated.

    def update() -> Any:
        nonlocal state
        state, sums = train.compiled(state, session.rng, loader.data, feed)
        return sums

    batch_size = session.config.batch_size
    images = session.dataset.split("train").images[np.arange(batch_size)]
    predict = partial(forward.compiled, *jax.device_put((variables, images)))
    return {
        **_prefixed("train", rate(update, steps * batch_size, repeats)),
        **_prefixed("inference", rate(predict, batch_size, repeats)),
    }


def rate(call: Callable[[], Any], images: int, repeats: int) -> dict[str, float | None]:
    """Median images/s of ``call``, which handles ``images`` of them, and joules per 1,000.

    Calls are dispatched one after the other and waited for at the end of each repeat.
    """
    last = _warm_up(call)
    calls = max(1, math.ceil(SHORTEST / last))
    with EnergyMeter() as meter:
        rates = [calls * images / _seconds(call, calls) for _ in range(repeats)]
    total = repeats * calls * images
    joules = None if meter.joules is None else 1000 * meter.joules / total
    return {"images_per_second": statistics.median(rates), "joules_per_1000": joules}


def _warm_up(call: Callable[[], Any]) -> float:
    """Seconds of the last of ten calls, or of those that began within ten seconds, at least three.

    On a CPU the first few calls get fresh pages from the kernel, which takes several times longer.
    """
    seconds = [_seconds(call, 1) for _ in range(3)]
    while len(seconds) < 10 and sum(seconds) < 10:
        seconds.append(_seconds(call, 1))
    return seconds[-1]


def _seconds(call: Callable[[], Any], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - started


def _prefixed(prefix: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
