"""The folder of one checkpoint: its record, and the checksums that make it complete."""

import json
import os
import re
from pathlib import Path
from typing import Any

from cxv_jax.files import sha256

CHECKSUMS = "checksums.sha256"
META = "meta.json"
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)\n")


def is_complete(folder: Path) -> bool:
    """Whether it is a step that was written to its end."""
    return folder.name.isdecimal() and (folder / CHECKSUMS).is_file()


def is_half(folder: Path) -> bool:
    """Whether it is a step of which files are missing: somebody copied or deleted half of it."""
    return folder.name.isdecimal() and not is_complete(folder) and any(folder.glob("*"))


def seal(folder: Path) -> None:
    """List every file of the step, once all of them are safe from a power cut."""
    lines = []
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        lines.append(f"{sha256(path)}  {path.relative_to(folder)}\n")
    with (folder / CHECKSUMS).open("w") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def fault(folder: Path, only: str | None = None) -> str | None:
    """What is wrong with the files of a step, or only with one of them; None: nothing."""
    try:
        listed = _read_checksums(folder)
        present = {str(path.relative_to(folder)) for path in _files(folder)}
        for name in [only] if only else sorted(listed.keys() | present):
            if name not in present:
                return f"{folder / name} is missing"
            if name not in listed:
                return f"{folder / name} is not listed in {CHECKSUMS}"
            if sha256(folder / name) != listed[name]:
                return f"{folder / name} is not as it was written (its checksum differs)"
    except OSError as error:
        return f"{error.filename or folder} cannot be read ({error.strerror})"
    return f"{folder / META} holds no record" if record(folder) is None else None


def record(folder: Path) -> dict[str, Any] | None:
    """``meta``, ``leaves`` and ``best_of`` of a step; None if they are of another form."""
    try:
        found = json.loads((folder / META).read_bytes())
        kinds = (("meta", dict), ("leaves", dict), ("best_of", str | None))
        good = all(isinstance(found[name], kind) for name, kind in kinds)
        return found if good and all(isinstance(x, str) for x in found["leaves"].values()) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path != folder / CHECKSUMS]


def _read_checksums(folder: Path) -> dict[str, str]:
    """Checksums by file name; a spoilt line lists nothing, so its file is refused as unlisted."""
    text = (folder / CHECKSUMS).read_bytes().decode(errors="replace")
    lines = [_CHECKSUM_LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    return {line[2]: line[1] for line in lines if line}
