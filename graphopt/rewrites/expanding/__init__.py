"""Layers added on request that leave the function as it is."""
