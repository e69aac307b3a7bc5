"""Reads tables in any format."""
