"""Which operators onnxruntime runs as one kernel, and in which spellings.

A rewrite that takes one of them away makes several passes of what was one.
"""
