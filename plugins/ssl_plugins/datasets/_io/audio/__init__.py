"""Reads recordings of sound."""
