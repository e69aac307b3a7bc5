"""Frozen features and what a probe reads from them. Knows an embedding function and a Task, not models."""
