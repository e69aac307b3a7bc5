"""Reads texts and sequences of letters."""
