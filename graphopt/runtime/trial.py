"""Models tried on inputs in a process of their own, since onnxruntime may end the process.

It does so where some operators, such as InstanceNormalization or pooling in its optimised form, get or make
maps without a position.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphopt.runtime.limits import watchdog
from graphopt.runtime.session import PROVIDER, Feeds, Structure

_START = """
import sys
sys.path[:] = sys.argv[1].split(sys.argv[2])
import os, pickle, signal
import numpy as np
told = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import onnxruntime as ort

model, weights, provider, inputs, seconds = pickle.load(sys.stdin.buffer)
if hasattr(signal, "alarm"):
    signal.alarm(seconds + 5)
sessions = []
for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    values = [ort.OrtValue.ortvalue_from_numpy(np.load(file)) for file in weights.values()]
    if weights:
        options.add_external_initializers(list(weights), values)
    try:
        sessions.append(ort.InferenceSession(model, options, providers=[provider]))
    except Exception:
        pass
told.write(b"!")
for feeds in inputs:
    for session in sessions:
        try:
            session.run(None, feeds)
        except Exception:
            pass
    told.write(b".")
"""
"""What the process does, with this process's path and not the current folder's: "!" when it is ready, and a
dot for each input that it got over, whether the model ran on it or failed. It ends by itself when nobody
ended it in time."""
_READY, _SEPARATOR = b"!", "\n"


def survived(parts: Structure, inputs: Sequence[Feeds]) -> list[bool]:
    """Whether a process lives on that runs a model on inputs, as it stands and as onnxruntime optimises it.

    Args:
        parts: the model.
        inputs: what it is run on.

    Returns:
        For each input whether the process lived on, within `watchdog.RUN_SECONDS` for all; an error of
        onnxruntime does not end it. All true where no such process can be had.
    """
    if not inputs:
        return []
    found: list[bool] = []
    model = bytes(parts.proto.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        files = {name: str(Path(folder, f"{number}.npy")) for number, name in enumerate(parts.weights)}
        for name, array in parts.weights.items():
            np.save(files[name], array)
        while len(found) < len(inputs):
            said, code = _said((model, files, PROVIDER, list(inputs[len(found) :])))
            if not said.startswith(_READY):  # killed while it loads the model, or no such process at all
                return [*found, *[code is not None and code >= 0] * (len(inputs) - len(found))]
            found += [True] * (len(said) - len(_READY))
            if code is None:
                return [*found, *[False] * (len(inputs) - len(found))]
            if len(found) < len(inputs):
                found.append(False)
    return found


def _said(asked: tuple[object, ...]) -> tuple[bytes, int | None]:
    """What a process says, and its exit code; None where it did not end in time."""
    seconds = max(1, round(watchdog.RUN_SECONDS))
    command = [sys.executable, "-c", _START, _SEPARATOR.join(sys.path), _SEPARATOR]
    try:
        child = subprocess.run(
            command, input=pickle.dumps((*asked, seconds)), capture_output=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", None
    except (OSError, ValueError):  # no executable, as in an embedded Python
        return b"", 0
    return child.stdout, child.returncode
