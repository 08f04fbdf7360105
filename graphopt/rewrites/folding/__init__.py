"""Operators that disappear into the weights of the linear operator beside them."""
