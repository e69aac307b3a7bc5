"""Training: the learner, the loop, optimiser, checkpoints and the metrics log."""
