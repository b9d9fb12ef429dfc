"""Config files by name: ``--config=digits:cpv`` from any folder."""

import re
from pathlib import Path

from cxv_jax.errors import InputError, nearest

MEANINGS = {
    **{"mnist": "digits", "cifar": "cifar10", "imagenet": "tiny_imagenet"},
    **dict.fromkeys(("pictures", "images", "image_folder", "imagefolder", "directory"), "folder"),
}


def names(folder: Path) -> list[str]:
    """What ``--config`` may name: the files of ``folder`` that define ``get_config``."""
    files = sorted(folder.glob("*.py"))
    return [file.stem for file in files if "\ndef get_config(" in file.read_text()]


def resolve(argv: list[str], folder: Path) -> list[str]:
    """``argv`` with the file of a preset in place of its name.

    Raises:
      InputError: ``--config`` names neither a preset nor a file that can be one.
    """
    resolved, rest = [], iter(argv)
    for argument in rest:
        if match := re.fullmatch("--?config(?:=(.*))?", argument, re.DOTALL):
            config = next(rest, "") if match[1] is None else match[1]
            argument = f"--config={_file(config, folder)}"
        resolved.append(argument)
    return resolved


def _file(config: str, folder: Path) -> str:
    """``FILE.py:VARIANT`` of ``NAME:VARIANT``; a file's own path as it is."""
    path, colon, variant = config.partition(":")
    found = names(folder)
    if path in found:
        return f"{folder / path}.py{colon}{variant}"
    if Path(path).is_file():
        if "get_config" not in Path(path).read_text(errors="replace"):
            raise InputError(f"--config={path}: a config file needs a function get_config")
        return config
    near = nearest(Path(path).stem, found, MEANINGS)
    raise InputError(f"--config={path}: neither a file nor a preset{near}")
