"""The config of a run, to repeat it: ``from_json.py:runs/mine/config.json``, or its summary."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from cxv_jax.config import base
from cxv_jax.errors import InputError
from cxv_jax.launch.command import field_names
from cxv_jax.run_files import read_json


def get_config(path: str = "config.json") -> ConfigDict:
    """Read ``config.json``, or the config that a run's ``summary.json`` holds.

    Raises:
      InputError: it is neither, or was written by a version that lacks fields of this one.
    """
    found = read_json(Path(path))
    found = found.get("config", found)
    try:
        expected = base(found["model"]["name"], found["data"]["source"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no config of a run; name its config.json or summary.json"
        ) from error
    here = set(field_names(found))
    lacking = [name for name in field_names(expected.to_dict()) if name not in here]
    # Models and optimizers have options of their own.
    if lacking := [name for name in lacking if not re.search(r"^model\.|\.options\.", name)]:
        raise InputError(
            f"{path} was written by another version, its config lacks {', '.join(lacking)}; add "
            "them to a copy, or train with the code of that version"
        )
    return ConfigDict(found)
