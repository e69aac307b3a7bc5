"""Shipped probes, one a file."""
