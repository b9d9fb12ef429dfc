"""Tests of the random bits: JAX's own and the algorithm's published answers are the references."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from cxv_jax.kernels import elementwise, threefry
from tests import quick_jax


def test_keys_bits_and_numbers_are_those_of_jax() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.threefry_bits"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_published_answers() -> None:
    # Known answers of the Random123 library (kat_vectors, threefry2x32 with 20 rounds).
    cases = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for keys, counters, expected in cases:
        words = (jnp.uint32(x) for x in (*keys, *counters))
        assert tuple(map(int, threefry.threefry_2x32(*words))) == expected


def test_too_many_at_once() -> None:
    with pytest.raises(ValueError, match="the most are 4294967295"):
        jax.jit(lambda: jax.random.bits(threefry.key(0), (2**16, 2**16))).lower()


def test_no_loop_hashes_a_word_for_each_element_that_reads_it() -> None:
    def drop(key: Array, x: Array) -> Array:
        return elementwise.dropout(x, key, 0.5)

    x = jnp.ones((8, 1024))
    compiled = jax.jit(drop).lower(threefry.key(0), x).compile(quick_jax.AS_USED)
    hashing = [part for part in str(compiled.as_text()).split("\n\n") if part.count(" xor(") >= 20]
    roots = [re.findall(r"ROOT [^=]+= \w+\[([\d,]*)\]", part)[-1] for part in hashing]
    sizes = [np.prod([int(n) for n in root.split(",")]) for root in roots]
    assert sizes
    assert max(sizes) <= x.size // 32  # So many elements take a bit of one word.
