"""Shipped datasets, one a file."""
