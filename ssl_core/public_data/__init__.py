"""Public data sets: their sources, download and extraction."""
