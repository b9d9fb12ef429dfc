"""Bytes that are damaged by chance."""

import random


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or with some bytes changed, lost or added, mostly near the beginning."""
    changed = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    for _ in range(rng.choice((1, 2, 5, 20))):
        i = rng.randrange(min(len(changed), rng.choice((32, 64, 200, 10**9))))
        width = (1, 1, int(len(changed) > 1), 0)[kind - 1]
        new = (rng.randbytes(1), rng.choice((b"\x00", b"\xff", b"\x7f")), b"", rng.randbytes(3))
        changed[i : i + width] = new[kind - 1]
    return bytes(changed)
