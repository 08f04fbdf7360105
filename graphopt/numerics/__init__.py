"""Convolution kernels and their factorisations, in plain NumPy."""
