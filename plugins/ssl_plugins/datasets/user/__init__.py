"""Data sets that read the user's own files."""
