"""Operators that do nothing, or the same as another."""
