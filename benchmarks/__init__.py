"""Benchmarks: what fastmlp promises about speed, printed by commands."""
