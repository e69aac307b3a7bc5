"""Runs: build, pretrain, evaluate, and the run directory."""
