"""Rewrites that bring channels to where onnxruntime has kernels for blocks of them."""
