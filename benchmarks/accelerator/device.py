"""The device's own rates: matrix products in both precisions, memory; and what else is installed.

A child of the campaign: python -m benchmarks.accelerator.device --size=8192 --megabytes=1024
--result=FILE
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.sides import matmul_gflops, timed
from cxv_jax.launch import command

_SIZE = flags.DEFINE_integer("size", 8192, "Rows of the square matrices.", lower_bound=1)
_MEGABYTES = flags.DEFINE_integer("megabytes", 1024, "Of the array that is copied.", lower_bound=1)
_RESULT = flags.DEFINE_string("result", None, "File to write.")


def main(argv: list[str]) -> None:
    """Measure and write."""
    if argv or _RESULT.value is None:
        command.fail("expected --result=FILE and nothing besides flags")
    import jax

    from cxv_jax import machine
    from cxv_jax.files import write_text

    found = {
        "platform": jax.devices()[0].platform,
        "float32": matmul_gflops(_SIZE.value),
        "bfloat16": matmul_gflops(_SIZE.value, "bfloat16"),
        "bandwidth": bandwidth(1_000_000 * _MEGABYTES.value),
        **torch_facts(),
        **{k: v for k, v in machine.environment().items() if k in ("device", "date", "versions")},
    }
    write_text(Path(_RESULT.value), json.dumps(found, indent=1) + "\n")


def bandwidth(size: int) -> float:
    """GB/s of memory: an array of ``size`` bytes read and another written, the best of a few."""
    import jax
    import jax.numpy as jnp

    x = jnp.zeros(size // 4)
    add = jax.jit(lambda x: x + 1)
    add(x).block_until_ready()
    seconds = [timed(lambda: add(x).block_until_ready()) for _ in range(7)]
    return 2 * x.nbytes / min(seconds) / 1e9


def torch_facts() -> dict[str, Any]:
    """PyTorch's version, empty without it, and whether this build computes on the GPU."""
    if importlib.util.find_spec("torch") is None:
        return {"torch": "", "torch_cuda": False}
    import torch

    return {"torch": torch.__version__, "torch_cuda": torch.cuda.is_available()}


if __name__ == "__main__":
    command.run(main)
