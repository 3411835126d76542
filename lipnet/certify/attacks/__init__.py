"""Attacks on certified models: an independent check that no certificate claims too much."""
