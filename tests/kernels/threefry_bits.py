"""Compare our random bits with JAX's, in a process that ``tests/conftest.py`` leaves alone."""

import jax
import numpy as np

from cxv_jax.kernels import threefry

SEEDS = (0, 1, 2**31 - 1, 2**32 - 1, 2**40 + 3, -5)
FOLDS = (0, 3, np.uint32(2**32 - 1))
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (3, 5), (2, 3, 4, 5))


def check_keys(seed: int) -> None:
    """Keys, folded and split."""
    pair = threefry.key(seed), jax.random.key(seed, impl="threefry2x32")
    for fold in FOLDS:
        same(*(jax.random.key_data(jax.random.fold_in(k, fold)) for k in pair))
    for shape in (2, (2, 3)):
        same(*(jax.random.key_data(jax.random.split(k, shape)) for k in pair))


def check_bits(shape: tuple[int, ...], dtype: str) -> None:
    """Bits of each width."""
    pair = threefry.key(11), jax.random.key(11, impl="threefry2x32")
    same(*(jax.random.bits(k, shape, dtype) for k in pair))


def check_numbers() -> None:
    """Numbers drawn under ``jit`` and ``vmap``."""
    draw = jax.jit(jax.vmap(lambda k: jax.random.normal(k, (3, 2))))
    pair = threefry.key(5), jax.random.key(5, impl="threefry2x32")
    same(*(draw(jax.random.split(k, 4)) for k in pair))


def same(ours: jax.Array, theirs: jax.Array) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(ours, theirs)


if __name__ == "__main__":
    check_numbers()
    for wide in (False, True):
        with jax.enable_x64(wide):
            for seed in SEEDS:
                check_keys(seed)
            for shape in SHAPES:
                for dtype in ("uint8", "uint16", "uint32", *(["uint64"] if wide else [])):
                    check_bits(shape, dtype)
