"""Shipped maskings, one a file."""
