"""Training and prediction of each framework behind one call: ``step()`` runs to its end.

As a program this is one side of ``side_by_side``.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Side(NamedTuple):
    """What to time, how to read the device's own peak memory, what is known beforehand."""

    train: Callable[[], None]
    infer: Callable[[], None]
    device_peak: Callable[[], int | None]
    facts: dict[str, Any]


def data(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same random images (NHWC) and labels for everybody."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, size, size, 3), np.float32)
    return images, random.integers(0, 10, batch)


def jax_side(
    model: str, batch: int, dtype: str, size: int = 32, devices: int = 1, **overrides: Any
) -> Side:
    """AdamW on our model, state donated, the batch split over ``devices``."""
    import jax
    import optax

    from cxv_jax import models, sharding
    from cxv_jax.kernels import threefry
    from cxv_jax.launch import allocator

    allocator.compute_inline()  # Here: PyTorch's process must not import JAX.
    mesh = sharding.create_mesh(devices=devices)
    module = models.create(model, dtype=dtype, **overrides)
    images, labels = jax.device_put(data(batch, size), sharding.batch_sharding(mesh))
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    variables = jax.device_put(variables, sharding.replicated(mesh))
    tx = optax.adamw(1e-3, weight_decay=0.01)

    def loss_fn(params: Any, rng: Any, images: Any, labels: Any) -> Any:
        rngs = {"dropout": rng}
        logits = module.apply({**variables, "params": params}, images, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # Arrays are arguments: closed over they would be constants, whole on every device.
    def step(state: Any, rng: Any, images: Any, labels: Any) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_fn)(params, rng, images, labels)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    predict = jax.jit(module.apply).lower(variables, images).compile()
    # Copies, which the step may take over; `variables` go on serving the prediction.
    params = jax.tree.map(lambda x: x.copy(), variables["params"])
    box = [(params, tx.init(params))]
    rest = (jax.device_put(threefry.key(1), sharding.replicated(mesh)), images, labels)
    compiled = jax.jit(step, donate_argnums=0).lower(box[0], *rest).compile()

    def train() -> None:
        box[0], loss = compiled(box[0], *rest)
        loss.block_until_ready()

    memory: Any = compiled.memory_analysis()  # Of one device.
    megabytes = memory.temp_size_in_bytes / (batch / devices) / 1e6
    facts = {"temp_mb_per_image": megabytes, "on": jax.devices()[0].device_kind}
    return Side(train, lambda: predict(variables, images).block_until_ready(), _jax_peak, facts)


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
    on = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = data(batch, size)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(on)
    y = torch.from_numpy(labels).to(on)
    net: Any = CXV(model).train().to(on)
    if channels_last:
        x, net = (a.to(memory_format=torch.channels_last) for a in (x, net))
    tx = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01)
    forward = torch.compile(net) if compiled else net

    def step(forward: Any = forward) -> None:
        net.train()
        tx.zero_grad(set_to_none=True)
        with torch.autocast(on, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        tx.step()
        loss.item()  # Waits for the device.

    def infer() -> None:
        net.eval()
        with torch.no_grad(), torch.autocast(on, torch.bfloat16, enabled=dtype == "bfloat16"):
            forward(x).sum().item()

    with FlopCounterMode(display=False) as counter:
        step(net)
    peak = torch.cuda.max_memory_allocated if on == "cuda" else lambda: None
    name = torch.cuda.get_device_name() if on == "cuda" else on
    flops = counter.get_total_flops() / batch / 1e9
    return Side(step, infer, peak, {"gflop_per_image": flops, "on": name})


def matmul_gflops(size: int = 2048, dtype: str = "float32") -> float:
    """This machine's matrix-product rate, as JAX does it by default: the best of a few."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = [timed(lambda: product(a, a).block_until_ready()) for _ in range(7)]
    return 2 * size**3 / min(seconds) / 1e9


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turn(side: Side, what: str, steps: int) -> dict[str, float]:
    """Median seconds of a few calls of ``what``, what they cost the kernel, memory so far."""
    call = getattr(side, what)
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = statistics.median(timed(call) for _ in range(steps))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
        "system_seconds": (after.ru_stime - before.ru_stime) / steps,
        "peak_gb": (side.device_peak() or 1000 * after.ru_maxrss) / 1e9,
    }


def _jax_peak() -> int | None:
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def work() -> None:
    """Be one side: build what the first line asks for, then take turns."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever a library prints goes to standard error.
    request = json.loads(sys.stdin.readline())
    kinds: dict[str, Any] = {"jax": jax_side, "torch": torch_side}
    side = kinds[request.pop("kind")](**request)
    for what in 3 * ("train", "infer"):
        turn(side, what, 2)  # Compiles, and goes on until malloc has pages for both.
    print(json.dumps(side.facts), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(side, *json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    work()
