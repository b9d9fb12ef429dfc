"""Files of arrays, archives and weights that are damaged, and some that are made to do harm."""

import gzip
import io
import itertools
import random
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxv_jax import models, torch_import
from cxv_jax.data.sources import load
from tests.data.small_sets import cifar_files, trust, write_archive
from tests.data.test_tiny_imagenet import ROOT, small
from tests.faults.damage import damage

Case = tuple[str, Callable[[], object]]  # What is read, and reading it.
Files = dict[str, bytes]
Read = Callable[[Path], object]
Kinds = dict[str, tuple[Files, Read]]  # By name: files, and what reads them in a folder.
GOLDEN = Path(__file__).parents[1] / "golden" / "cxv" / "cltv.npz"
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 16, 12, 3), np.uint8)
LABELS = (np.arange(60) % 10).astype(np.uint8)
BOMB = 1_200_000_000  # Bytes of zeros, in a file of some 5 MB.


def sources() -> Kinds:
    """Good files of every kind."""
    idx = {
        f"{name}-{kind}-ubyte.gz": gzip.compress(header(array.shape) + array.tobytes())
        for name in ("train", "t10k")
        for kind, array in (("images-idx3", PIXELS[..., 0]), ("labels-idx1", LABELS))
    }
    found: Kinds = {
        "idx": (idx, lambda p: load("fashion_mnist", data_dir=str(p))),
        "zip": (
            {f"{ROOT}.zip": zipped({f"{ROOT}/{k}": v for k, v in small().items()})},
            lambda p: load("tiny_imagenet", data_dir=str(p)),
        ),
    }
    for form in ("binary", "python"):
        found[f"tar of {form}"] = ({f"cifar-10-{form}.tar.gz": cifar(form)}, read_cifar)
    for pixels in (PIXELS, PIXELS.astype(np.uint16), PIXELS / 255):
        for save in (np.savez, np.savez_compressed):
            content = saved(save, images=pixels, labels=LABELS)
            found[f"npz of {pixels.dtype}, {save.__name__}"] = ({"x.npz": content}, read_npz)
    for ending, content in weights().items():
        found[f"weights in {ending}"] = ({f"w{ending}": content}, read_weights)
    return found


def good(folder: Path) -> Iterator[Case]:
    """Every kind as it is."""
    for name, (files, read) in sources().items():
        yield name, partial(read, put(folder / "good" / name, files))


def bad(folder: Path, number: int, rng: random.Random) -> Iterator[Case]:
    """The hostile ones, then damaged ones, ``number`` in all."""
    harmful, fine = hostile(), sources()
    for name, (files, read) in harmful.items():
        yield name, partial(read, put(folder / "bad" / "hostile", files))
    for i, name in zip(range(number - len(harmful)), itertools.cycle(fine), strict=False):
        files, read = fine[name]
        hit = rng.choice(sorted(files))
        inside = damaged_inside(hit, files[hit], rng) if i // len(fine) % 2 else None
        content = damage(files[hit], rng) if inside is None else inside
        place = put(folder / "bad" / name, {**files, hit: content})
        yield f"{name} damaged, the {i}th", partial(read, place)


def damaged_inside(name: str, content: bytes, rng: random.Random) -> bytes | None:
    """The same archive, whole, of damaged members; None for what is none."""
    if name.endswith((".npz", ".zip")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {k: archive.read(k) for k in archive.namelist()}
        hit = rng.choice(sorted(members))
        return zipped({**members, hit: damage(members[hit], rng)})
    if name.endswith(".gz"):
        return gzip.compress(damage(gzip.decompress(content), rng))
    return None


def put(place: Path, files: Files) -> Path:
    """A folder with these files and no others."""
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def read_npz(place: Path) -> object:
    """A data set in an npz file."""
    return load(f"npz:{place / 'x.npz'}")


def read_cifar(place: Path) -> object:
    """A CIFAR archive that its owner trusts."""
    trust(next(place.glob("*.tar.gz")))
    return load("cifar10", data_dir=str(place))


def read_weights(place: Path) -> object:
    """Weights, their sizes, the model's variables."""
    state = torch_import.load_state_dict(next(place.iterdir()))
    sizes = torch_import.cxv_sizes(state)
    return torch_import.from_torch(models.create("cltv", **sizes), state)


def weights() -> Files:
    """Good weights by ending; those of torch where it is installed."""
    state = {
        name.removeprefix("param:"): np.ascontiguousarray(array)
        for name, array in torch_import.load_state_dict(GOLDEN).items()
        if name.startswith("param:")
    }
    return {".npz": saved(np.savez, **state), **in_other_forms(state)}


def in_other_forms(state: dict[str, np.ndarray]) -> Files:
    """Weights as safetensors, and as torch writes them."""
    from safetensors.numpy import save

    found = {".safetensors": save(state)}
    try:
        import torch
    except ImportError:
        return found
    file = io.BytesIO()
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, file)
    return {**found, ".pt": file.getvalue()}


def hostile() -> Kinds:
    """Files that are made to do harm."""
    arrays: dict[str, dict[str, Any]] = {
        "labels to 2³¹": dict(images=PIXELS, labels=LABELS + np.int64(2**31 - 11)),
        "labels to 10⁷": dict(images=PIXELS, labels=LABELS * np.int64(10**6)),
        "objects": dict(images=PIXELS, labels=np.array([print] * 60, object)),
        "10⁶ class names": dict(images=PIXELS, labels=LABELS, class_names=np.arange(10**6)),
    }
    found: Kinds = {k: ({"x.npz": saved(np.savez, **v)}, read_npz) for k, v in arrays.items()}
    for shape in ((2**31, 2**31, 3), (-1, 16, 12, 3), (0, 16, 12, 3), (2**62,)):
        members = {"images.npy": array_header(shape) + b"x", "labels.npy": array_header((60,))}
        found[f"npz of {shape}"] = ({"x.npz": zipped(members)}, read_npz)
        found[f"weights of {shape}"] = ({"w.npz": zipped(members)}, read_weights)
    fine = sources()
    members = {"images.npy": array_header((BOMB // 576, 16, 12, 3)), "labels.npy": b""}
    bomb = zipped(members, BOMB)
    found["npz bomb"] = ({"x.npz": bomb}, read_npz)
    found["weights bomb"] = ({"w.npz": bomb}, read_weights)
    found["zip bomb"] = ({f"{ROOT}.zip": bomb}, fine["zip"][1])
    good_idx, read_idx = fine["idx"]
    flood = gzip_zeros(header((BOMB // 784, 28, 28)))
    found["idx bomb"] = ({**good_idx, "train-images-idx3-ubyte.gz": flood}, read_idx)
    for name, content in archives().items():
        found[name] = ({"cifar-10-binary.tar.gz": content}, read_cifar)
    state = np.load(GOLDEN)
    layers = {k.removeprefix("param:"): state[k] for k in state.files if k.startswith("param:")}
    for number in ("999999999", "-1", "x", "1_0"):
        more = {**layers, f"layers.{number}.0.weight": np.zeros(1, np.float32)}
        found[f"layer {number}"] = ({"w.npz": saved(np.savez, **more)}, read_weights)
    empty = {name: np.zeros((0,) * array.ndim, np.float32) for name, array in layers.items()}
    found["empty weights"] = ({"w.npz": saved(np.savez, **empty)}, read_weights)
    return {**found, **torch_files()}


def torch_files() -> Kinds:
    """Of torch: code, and a shape that few stored values stand for."""
    try:
        import torch
    except ImportError:
        return {}
    found: Kinds = {}
    half = torch.zeros(1, dtype=torch.float16).expand(10**10)
    for name, value in (("code", {"evil": print}), ("shape", {"w": half}), ("list", [1, 2])):
        file = io.BytesIO()
        torch.save(value, file)
        found[f"torch {name}"] = ({"w.pt": file.getvalue()}, read_weights)
    return found


def archives() -> Files:
    """CIFAR archives with members that are no plain files, or too large."""
    name = "cifar-10-batches-bin/data_batch_1.bin"
    found: Files = {}
    for kind, target in (
        *((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.SYMTYPE, name), (tarfile.LNKTYPE, "absent")),
        *((tarfile.LNKTYPE, name), (tarfile.FIFOTYPE, ""), (tarfile.DIRTYPE, "")),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        found[f"tar with {kind!r} to {target}"] = gzip.compress(info.tobuf() + bytes(1024))
    for inside in (name, "other"):
        info = tarfile.TarInfo(inside)
        info.size = BOMB
        found[f"tar bomb, {inside}"] = gzip_zeros(info.tobuf())
        info.size = 2**40
        found[f"tar of a terabyte, {inside}"] = gzip.compress(info.tobuf() + bytes(1024))
    return found


def cifar(form: str) -> bytes:
    """A small archive of CIFAR-10."""
    folder, files, _ = cifar_files("cifar10", form)
    with tempfile.TemporaryDirectory() as place:
        return write_archive(Path(place) / "x.tar.gz", folder, files).read_bytes()


def saved(save: Callable[..., Any], **arrays: np.ndarray) -> bytes:
    """The bytes of an npz file."""
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def zipped(members: Files, bomb: int = 0) -> bytes:
    """A zip archive; so many zeros follow the first member's content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i, (name, content) in enumerate(members.items()):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(0, bomb * (i == 0), 10**7):
                    member.write(bytes(10**7))
    return file.getvalue()


def gzip_zeros(start: bytes) -> bytes:
    """Gzip of ``start`` and ``BOMB`` zeros: streams that follow each other are read as one."""
    return gzip.compress(start) + BOMB // 10**7 * gzip.compress(bytes(10**7))


def header(shape: tuple[int, ...]) -> bytes:
    """Of an IDX file of bytes."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)


def array_header(shape: tuple[int, ...]) -> bytes:
    """Of an array of bytes in an npz file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()
