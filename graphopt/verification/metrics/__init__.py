"""Measures that the user names: ready ones of tasks, and functions of their own."""
