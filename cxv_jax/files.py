"""Files that are whole or not there, and files that are known again."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it: a reader sees old or new.

    The temporary file (``.NAME.*.part`` with the ending of ``path``) is removed if ``write`` fails.
    """
    handle, name = tempfile.mkstemp(f".part{path.suffix}", f".{path.stem}.", path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what a killed :func:`replace` has left in a folder in which nobody else writes."""
    for path in folder.glob(".*.part*"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """:func:`replace` a text file, in UTF-8."""
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """The digest of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    """What the process takes away from the rights of new files; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
