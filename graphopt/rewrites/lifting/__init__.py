"""Operators along one axis as operators on maps of one row, for which there are faster kernels."""
