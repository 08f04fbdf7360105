"""Layers that keep their form, fitted anew to what stands before them."""
