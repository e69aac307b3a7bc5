"""Shipped objectives, one a file."""
