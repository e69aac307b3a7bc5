"""Shipped maskings, one in each file."""
