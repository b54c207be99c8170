"""A network in a folder: weights, how to rebuild it, and what is known about it."""
