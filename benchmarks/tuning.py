"""Why the constants of tuning stand where they do: each is tried below and above its value.

    python -m benchmarks.tuning FOLDER [--steps 1000] [--budget 0.3] [--network resnet20] [NAME ...]

FOLDER is that of `benchmarks.accuracy`. The network of a budget, from 1,024 images, is tuned with each value,
and judged on 1,024 other images: the mean over the outputs of the squared error as a part of each one's
variance.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import graphopt
from benchmarks.accuracy import CALIBRATION, MODELS, images

HOME = "graphopt.compression.tuning"
TRIED: dict[str, tuple[float, ...]] = {
    "descent.RATE": (1.67e-4, 1.5e-3),
    "descent.BATCH": (16, 64),
    "descent.WORSE": (1.05, 2.0),
    "descent.TRIED_FOR": (25, 100),
    "targets.INNER": (0, 3),
    "augmentation.MOVED": (16,),
    "augmentation.MIXED": (0.0,),
}
"""Constants, and the values that they are given besides their own."""


def error(model: ir.Model, wanted: np.ndarray, x: np.ndarray) -> float:
    """What a network loses of the original's outputs on other images."""
    running = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name
    made = np.concatenate([running.run(None, {name: x[i : i + 128]})[0] for i in range(0, len(x), 128)])
    return float((np.square(made - wanted).mean(axis=0) / wanted.var(axis=0)).mean())


def main() -> None:
    """Parses the command line and prints a line for each value."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--network", default="resnet20", choices=list(MODELS))
    given = parser.parse_args()
    reference = given.folder / "models" / MODELS[given.network]
    x = images(given.folder / "inputs" / "cifar10-calibration.npz")
    fit, other = x[:CALIBRATION], x[CALIBRATION:]
    candidate = graphopt.optimize(reference, {"macs": given.budget}, fit, aim="macs").model
    original = ort.InferenceSession(str(reference), providers=["CPUExecutionProvider"])
    wanted = original.run(None, {original.get_inputs()[0].name: other})[0]
    start = error(candidate, wanted, other)
    print(f"{given.network} at {given.budget:g}, {given.steps} steps; not tuned: {start:.4f}")
    values = [("", 0.0), *((name, value) for name, tried in TRIED.items() for value in tried)]
    for name, value in values:
        if given.names and not any(name.startswith(each) or each in name for each in given.names):
            continue
        module, _, constant = name.rpartition(".")
        home = importlib.import_module(f"{HOME}.{module or 'descent'}")
        own = getattr(home, constant) if name else None
        if name:
            setattr(home, constant, type(own)(value))
        began = time.process_time()
        found = graphopt.tune(reference, candidate, fit, steps=given.steps)
        took = time.process_time() - began
        if name:
            setattr(home, constant, own)
        left = error(found.model, wanted, other)
        label = f"{name} {value:g} for {own:g}" if name else "as it is"
        print(f"{label:40} {left:.4f}  rate {found.tuning.rate:.2g}  {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
