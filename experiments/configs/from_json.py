"""The config of a run folder, to repeat that run: ``from_json.py:runs/mine/config.json``."""

import json
from pathlib import Path

from ml_collections import ConfigDict


def get_config(path: str = "config.json") -> ConfigDict:
    return ConfigDict(json.loads(Path(path).read_text()))
