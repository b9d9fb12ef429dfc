"""Test settings: 8 fake CPU devices, strict arithmetic, checked array shapes, parsed flags."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

from tests import quick_jax

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", quick_jax.flags(devices=8))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import psutil
import pytest
from absl import flags
from hypothesis import HealthCheck, settings
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir
from jaxtyping import install_import_hook

from tests import typecheck

install_import_hook("cxv_jax", f"{typecheck.__name__}.check")
# The same few examples everywhere, and none kept in the checkout.
settings.register_profile(
    "few",
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # A busy machine is no fault of a test.
)
settings.load_profile("few")

from cxv_jax.kernels import threefry  # noqa: E402  (After the hook.)

# JAX's random bits, compiled in a third of the time: tests initialise models by the hundred.
mlir.register_lowering(
    threefry2x32_p, mlir.lower_fun(threefry.threefry_2x32, multiple_results=True), platform="cpu"
)
quick_jax.share_contexts()
flags.FLAGS.mark_as_parsed()  # Grain's workers refuse to start before flags are parsed.
jax.config.update("jax_numpy_rank_promotion", "raise")

MUCH = 3 * 2**30  # Bytes, of a process.
SHARED = Path(__file__).parents[2] / "shared"


def pytest_collection_finish() -> None:
    """What is imported stays: a look through it for garbage, at every test, took a twentieth."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development folder with real data; absent in a stranger's clone."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data folder {SHARED} is not here")
    return SHARED


@pytest.fixture(autouse=True, scope="module")
def _memory_is_given_back() -> Iterator[None]:
    """Programs of finished modules go once they take much; those that come back are read."""
    yield
    if psutil.Process().memory_info().rss > MUCH:
        jax.clear_caches()
