"""Functions in the spelling that onnxruntime runs fastest; equal in real arithmetic."""
