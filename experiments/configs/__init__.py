"""Experiment configurations, one file a data set: ``--config=experiments/configs/FILE.py:VARIANT``."""
