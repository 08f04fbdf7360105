"""An ONNX model on disk and in memory: loaded, checked, walked, edited, saved."""
