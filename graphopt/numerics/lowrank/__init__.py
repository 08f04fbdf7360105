"""Kernels as products of smaller ones: decompositions, one a file, and the linear algebra that they share."""
