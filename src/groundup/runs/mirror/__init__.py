"""Copies of a run's checkpoints somewhere else, and the way back from them. `sending` is the way in, `restore` the way out."""
