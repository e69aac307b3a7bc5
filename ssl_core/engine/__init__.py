"""The engine: learner, loader, loop, checkpoints, device."""
