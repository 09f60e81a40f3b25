"""What keeps a run: checkpoints, its folder, signals, environments that fail."""
