"""Command lines: flags and printing only; the work is done in ``cxv_jax``."""
