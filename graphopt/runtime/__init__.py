"""What runs in onnxruntime: sessions, programs run piece by piece, changed subgraphs, measured time."""
