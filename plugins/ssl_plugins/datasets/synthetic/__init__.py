"""Synthetic data sets, generated on the fly from a seed."""
