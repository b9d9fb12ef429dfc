"""The config of a run, to repeat it: ``from_json.py:runs/mine/config.json``, or its summary."""

from pathlib import Path

from ml_collections import ConfigDict

from cxv_jax.config import completed
from cxv_jax.errors import InputError
from cxv_jax.run_files import read_json


def get_config(path: str = "config.json") -> ConfigDict:
    """Read ``config.json``, or the config that a run's ``summary.json`` holds.

    Fields that came later are at their defaults.

    Raises:
      InputError: it holds no config.
    """
    found = read_json(Path(path))
    found = found.get("config", found)
    parts = ("model", "data", "phase1", "phase2")
    if not (isinstance(found, dict) and all(isinstance(found.get(x), dict) for x in parts)):
        raise InputError(f"{path} holds no config of a run; name its config.json or summary.json")
    return ConfigDict(completed(found))
