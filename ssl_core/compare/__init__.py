"""Comparisons: a grid of methods, data sets and seeds, and the runner of its cells."""
