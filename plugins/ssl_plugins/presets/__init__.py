"""Shipped presets, one family per module."""
