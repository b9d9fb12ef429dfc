"""What the commands do so that a step's memory is there once, not two or three times."""

import subprocess
import sys

import pytest

STEPS = """
import resource
import jax, jax.numpy as jnp
from cxv_jax.launch import allocator

allocator.compute_inline()
size = 5_000  # Temporaries of 100 MB: a product's factor.


def body(x):
    factor = jnp.sin(x + jnp.arange(size * size, dtype=jnp.float32)).reshape(size, size)
    return (factor @ factor[0])[0]


step = jax.jit(body, donate_argnums=0)
x = step(jnp.zeros(()))
first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(20):
    x = step(x)
x.block_until_ready()
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first) / (4 * size**2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are for glibc")
def test_steps_that_follow_each_other_do_not_pile_up_their_temporaries() -> None:
    from cxv_jax.launch import allocator

    command = [sys.executable, "-c", STEPS]
    environment = {**allocator.environment(), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 2.5  # Besides the first; five to seven in threads of their own.
