"""Several systems under one recipe, one data split and one budget: train, tabulate, draw."""
