"""Damaged and hostile files: only InputError leaves, in one line, soon."""

import gzip
import io
import random
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data.sources import load
from cxv_jax.errors import InputError
from cxv_jax.inference import load_image

SECONDS = 5
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 16, 12, 3), np.uint8)
LABELS = (np.arange(60) % 10).astype(np.uint8)
KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut short, or with some bytes changed, lost or added, mostly near the beginning."""
    changed = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    for _ in range(rng.choice((1, 2, 5, 20))):
        i = rng.randrange(min(len(changed), rng.choice((32, 64, 200, 10**9))))
        width = (1, 1, 0, 0)[kind - 1]
        new = (rng.randbytes(1), rng.choice((b"\x00", b"\xff", b"\x7f")), b"", rng.randbytes(3))
        if kind == 3 and len(changed) > 1:
            width = 1
        changed[i : i + width] = new[kind - 1]
    return bytes(changed)


def survives(read) -> bool:
    """Whether ``read`` takes the file; if not, it says so in one line, soon."""
    start, said = time.perf_counter(), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about damage it reads over.
        try:
            read()
        except InputError as error:
            said = str(error)
    assert "\n" not in said
    assert "allow_pickle" not in said
    assert time.perf_counter() - start < SECONDS
    return not said


@pytest.mark.parametrize("deep", [False, True])
def test_pictures(tmp_path, deep):
    rng, good = random.Random(0), []
    picture = Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 257 if deep else PIXELS[0])
    for kind in ("PNG", "TIFF") if deep else KINDS:
        file = io.BytesIO()
        picture.save(file, kind)
        good.append(file.getvalue())
    read = 0
    for i in range(160):
        (tmp_path / "x.png").write_bytes(damage(good[i % len(good)], rng))
        read += survives(lambda: load_image(tmp_path / "x.png", 8))
    assert 0 < read < 160


@pytest.mark.parametrize("inside", [False, True], ids=["the archive", "its members"])
def test_arrays(tmp_path, inside):
    rng, path, read = random.Random(1), tmp_path / "x.npz", 0
    for i in range(120):
        pixels = (PIXELS, PIXELS.astype(np.uint16), PIXELS / 255)[i % 3]
        (np.savez, np.savez_compressed)[i % 2](path, images=pixels, labels=LABELS)
        content = path.read_bytes()
        if inside:
            with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
                for name in old.namelist():
                    new.writestr(name, damage(old.read(name), rng))
        else:
            path.write_bytes(damage(content, rng))
        read += survives(lambda: load(f"npz:{path}"))
    assert read < 120


@pytest.mark.parametrize("inside", [False, True], ids=["packed", "unpacked"])
def test_idx_files(tmp_path, inside):
    rng, good, read = random.Random(2), {}, 0
    for name in ("train", "t10k"):
        for kind, array in (("images-idx3", PIXELS[..., 0]), ("labels-idx1", LABELS)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            good[f"{name}-{kind}-ubyte.gz"] = head + array.tobytes()
    for i in range(120):
        hit = list(good)[i % 4]
        for name, content in good.items():
            bad = damage(content, rng) if inside and name == hit else content
            packed = gzip.compress(bad)
            (tmp_path / name).write_bytes(
                damage(packed, rng) if name == hit and not inside else packed
            )
        read += survives(lambda: load("fashion_mnist", data_dir=str(tmp_path)))
    assert 0 < read < 120
