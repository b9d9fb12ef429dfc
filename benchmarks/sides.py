"""One training step of each framework, behind one call: ``step()`` runs it to its end."""

import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Side(NamedTuple):
    """A step to time and what is known about it beforehand."""

    step: Callable[[], None]
    facts: dict[str, float]


def data(batch: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The same random images (NHWC) and labels for everybody."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, side, side, 3), np.float32)
    return images, random.integers(0, 10, batch)


def jax_side(model: str, batch: int, dtype: str, size: int = 32, **overrides: Any) -> Side:
    """AdamW on our model, state donated."""
    import jax
    import optax

    from cxv_jax import models

    module = models.create(model, dtype=dtype, **overrides)
    images, labels = jax.device_put(data(batch, size))
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    tx = optax.adamw(1e-3, weight_decay=0.01)

    def loss_fn(params: Any, rng: Any) -> Any:
        rngs = {"dropout": rng}
        logits = module.apply({**variables, "params": params}, images, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state: Any, rng: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, rng)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    state = (variables["params"], tx.init(variables["params"]))
    compiled = jax.jit(step, donate_argnums=0).lower(state, jax.random.key(1)).compile()
    box = [state]

    def run() -> None:
        box[0], loss = compiled(box[0], jax.random.key(time.perf_counter_ns() % 2**31))
        loss.block_until_ready()

    memory = compiled.memory_analysis()
    return Side(run, {"temp_mb_per_image": memory.temp_size_in_bytes / batch / 1e6})


def torch_side(
    model: str,
    batch: int,
    dtype: str,
    size: int = 32,
    channels_last: bool = False,
    compiled: bool = False,
) -> Side:
    """AdamW on the plain PyTorch model."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.torch_models import CXV

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images, labels = data(batch, size)
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    net = CXV(model).train()
    if channels_last:
        x, net = (a.to(memory_format=torch.channels_last) for a in (x, net))
    tx = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    forward = torch.compile(net) if compiled else net

    def step(forward: Any = forward) -> None:
        tx.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        tx.step()

    with FlopCounterMode(display=False) as counter:
        step(net)
    return Side(step, {"gflop_per_image": counter.get_total_flops() / batch / 1e9})


def matmul_gflops(size: int = 2048) -> float:
    """This machine's float32 matrix-product rate: the best of a few, through XLA."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = [timed(lambda: product(a, a).block_until_ready()) for _ in range(7)]
    return 2 * size**3 / min(seconds) / 1e9


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turn(side: Side, steps: int) -> dict[str, float]:
    """Median seconds of a few steps, and what they cost the kernel."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = statistics.median(timed(side.step) for _ in range(steps))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
        "system_seconds": (after.ru_stime - before.ru_stime) / steps,
        "peak_rss_gb": after.ru_maxrss / 1e6,
    }
