"""Measured results: their folders, and the README's table of them beside the published figures."""
