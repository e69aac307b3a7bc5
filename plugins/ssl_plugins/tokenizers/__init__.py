"""Shipped tokenizers, one per module."""
