"""Derivatives of a network, as operators that onnxruntime runs."""
