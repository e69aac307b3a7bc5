"""Reads time series: tables, arrays and recordings of several channels."""
