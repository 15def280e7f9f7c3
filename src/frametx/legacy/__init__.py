"""Key maps of the original checkpoints, one file per variant."""
