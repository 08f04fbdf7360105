"""Chains of linear operators that are one linear operator."""
