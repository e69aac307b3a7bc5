"""Shipped tokenizers, one a file."""
