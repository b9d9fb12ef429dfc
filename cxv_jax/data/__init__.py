"""Sources of labelled images and the loaders that bring them to the devices."""
