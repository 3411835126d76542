"""Hydra configuration groups of the three commands; see docs/training.md."""
