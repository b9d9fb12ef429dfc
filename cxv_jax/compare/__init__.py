"""Several systems under one recipe, one data split and one budget: train, tabulate, draw."""

from cxv_jax.compare.execute import Launch, compare

__all__ = ["Launch", "compare"]
