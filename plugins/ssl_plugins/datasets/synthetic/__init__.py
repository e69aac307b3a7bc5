"""Synthetic data sets: samples generated from a seed, without a download."""
