"""A search over the settings of `train`: the space, the trials, the front, and what is chosen from it."""
