"""Benchmarks, whose figures are ratios within one run, and studies of trainings. README.md lists the commands."""
