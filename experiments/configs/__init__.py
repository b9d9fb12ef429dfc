"""Experiment configurations, one file a data set: ``--config=FILE.py:VARIANT``."""

from pathlib import Path

FOLDER = Path(__file__).parent
