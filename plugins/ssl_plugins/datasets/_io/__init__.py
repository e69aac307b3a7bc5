"""Readers of file formats and splitting rules, shared by the data sets."""
