"""Folders of runs as files of at most 15 MB, which can be carried off a machine one by one."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

from cxv_jax.errors import InputError

LARGEST = 15_000_000  # Bytes of a part.
INDEX = "index.json"


def pack(run: Path, into: Path, largest: int = LARGEST) -> None:
    """``INTO/RUN/000``, ... and ``index.json`` with their digests; what was there goes at the end.

    Args:
      run: a run's folder; nothing happens where there is none.
      into: folder of the parts of all runs.
      largest: bytes of a part.
    """
    new, place, old = (into / f"{run.name}{end}" for end in (".new", "", ".old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if not run.is_dir():
        return
    new.mkdir()
    whole = new / "whole"
    with tarfile.open(whole, "w") as archive:
        archive.add(run, run.name, filter=lambda x: None if x.name.endswith(".lock") else x)
    digests: dict[str, str] = {}
    with whole.open("rb") as file:
        while piece := file.read(largest):
            name = f"{len(digests):03}"
            (new / name).write_bytes(piece)
            digests[name] = hashlib.sha256(piece).hexdigest()
    whole.unlink()
    (new / INDEX).write_text(json.dumps(digests, indent=1) + "\n")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def unpack_all(parts: Path, runs: Path) -> list[str]:
    """Runs that are there in parts only, as folders again; a line about each.

    Raises:
      InputError: a part is missing or damaged.
    """
    lines = []
    for index in sorted(parts.glob(f"*/{INDEX}")):
        name = index.parent.name
        if "." not in name and not (runs / name).exists():
            _unpack(index, runs)
            lines.append(f"{name}: put together from {index.parent}")
    return lines


def _unpack(index: Path, runs: Path) -> None:
    pieces = []
    for name, digest in json.loads(index.read_text()).items():
        path = index.parent / name
        piece = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(piece).hexdigest() != digest:
            raise InputError(
                f"{path} is missing or damaged: bring it again, or delete {index.parent} to begin "
                "this training anew"
            )
        pieces.append(piece)
    new = runs / f"{index.parent.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        archive.extractall(new, filter="data")
    (new / index.parent.name).rename(runs / index.parent.name)
    new.rmdir()
