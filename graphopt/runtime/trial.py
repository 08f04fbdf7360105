"""Models tried on inputs in a process of their own, since onnxruntime may end the process.

It does so where some operators, such as InstanceNormalization or pooling in its optimised form, get or make
maps without a position.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence

from graphopt.runtime.session import PROVIDER, Feeds, Structure

_START = """
import pickle, sys
import onnxruntime as ort

model, weights, provider, inputs = pickle.load(sys.stdin.buffer)
sessions = []
for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    values = [ort.OrtValue.ortvalue_from_numpy(each) for each in weights.values()]
    if weights:
        options.add_external_initializers(list(weights), values)
    try:
        sessions.append(ort.InferenceSession(model, options, providers=[provider]))
    except Exception:
        pass
for feeds in inputs:
    for session in sessions:
        try:
            session.run(None, feeds)
        except Exception:
            pass
    sys.stdout.write(".")
    sys.stdout.flush()
"""
"""What the process does: a dot for each input that it got over, whether the model ran on it or failed."""


def survived(parts: Structure, inputs: Sequence[Feeds]) -> list[bool]:
    """Whether a process lives on that runs a model on inputs, as it stands and as onnxruntime optimises it.

    Args:
        parts: the model.
        inputs: what it is run on.

    Returns:
        For each input whether the process lived on; an error of onnxruntime does not end it.
    """
    found: list[bool] = []
    model = bytes(parts.proto.SerializeToString()) if inputs else b""
    while len(found) < len(inputs):
        asked = pickle.dumps((model, dict(parts.weights), PROVIDER, list(inputs[len(found) :])))
        child = subprocess.run([sys.executable, "-c", _START], input=asked, capture_output=True, check=False)
        found += [True] * len(child.stdout)
        if len(found) < len(inputs):
            found.append(False)
    return found
