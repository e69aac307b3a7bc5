"""Small helpers without domain knowledge: files, locks, seeds, the cache directory, console output."""
