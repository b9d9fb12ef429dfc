"""Experiment configurations, one file a data set: ``--config=FILE.py:VARIANT``."""
