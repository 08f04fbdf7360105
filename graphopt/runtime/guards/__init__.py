"""Runs of models that may end badly: with the process, or never."""
