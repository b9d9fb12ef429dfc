"""The JSON files of a run's folder: its config, its splits, what it came to."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cxv_jax.config import completed
from cxv_jax.data.stored import Stored
from cxv_jax.errors import InputError, os_fault

CONFIG, SUMMARY, DATA = "config.json", "summary.json", "data.json"
CUTTING = (
    "source",
    "val_fraction",
    "val_per_class",
    "subset_per_class",
    "splits",
    "split_index",
    "folds",
    "small_classes",
    "classes",
)


def kept_splits(workdir: str | Path, config: ConfigDict) -> Stored | None:
    """The splits that the folder's run was started with; None: they are to be cut.

    That is so in a new folder, in one of an older version, and where the config asks for others.

    Raises:
      InputError: ``data.json`` is damaged.
    """
    before, path = Path(workdir) / CONFIG, Path(workdir) / DATA
    if not (before.is_file() and path.is_file()):
        return None
    if cuts_anew(read_json(before), plain(config)):
        logging.getLogger(__name__).warning(
            "%s: the config asks for other splits: what is tested now may have been trained on",
            workdir,
        )
        return None
    return read_stored(Path(workdir))


def read_stored(workdir: Path) -> Stored | None:
    """The splits of the run in a folder; None if it tells none.

    Raises:
      InputError: ``data.json`` is damaged.
    """
    path = workdir / DATA
    if not path.is_file():
        return None
    try:
        return Stored.from_json(read_json(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it or start a new run") from error


def cuts_anew(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two configs, as plain data, ask for different splits; fields may be missing."""
    old, new = (completed(config).get("data") for config in (before, now))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return True
    return any(old.get(name) != new.get(name) for name in CUTTING)


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON brings it back: tuples are lists."""
    return json.loads(config.to_json())


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a run holds: an object.

    Raises:
      InputError: if it cannot be read, or is damaged.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise os_fault(error) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it or delete the run") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged (no JSON object); restore it or delete the run")
    return found
