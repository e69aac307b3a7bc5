"""Shipped encoders."""
