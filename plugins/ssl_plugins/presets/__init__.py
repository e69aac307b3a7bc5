"""Shipped presets, one a file."""
