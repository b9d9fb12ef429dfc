"""Several systems under one recipe, one data split and one budget: train, tabulate, draw."""

from experiments.compare.carry_out import Launch, carry_out

__all__ = ["Launch", "carry_out"]
