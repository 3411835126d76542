"""Ratios against plain convolutions and the published layer, measured in one run."""
