"""Whole-process benchmarks of graphopt; see README.md for how to run each."""
