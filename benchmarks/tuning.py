"""What tuning brings to the network of a budget, and why its constants stand where they do.

    python -m benchmarks.tuning FOLDER [--network resnet20] [--budget 0.3] [--steps 1000,4000] [--inputs 1024]
                                [--seed 0] [--vary NAME ...]

FOLDER is that of `benchmarks.accuracy`. The network of a budget, from some images, is tuned with each number
of steps, and judged on 1,024 other images, or the test images where `--inputs` leaves none: by the mean over
the outputs of the squared error as a part of each one's variance, as it is and in dB. The points of top-1
lost are those of the test images. `--vary` gives the constants of these names a value below and above their
own besides; `all` does so to all of them.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

import graphopt
from benchmarks.accuracy import CALIBRATION, MODELS, accuracy, images
from graphopt.numerics.spread import Spread, decibels, squares_of

HOME = "graphopt.compression.tuning"
TRIED: dict[str, tuple[float, ...]] = {
    "descent.RATE": (1.67e-4, 1.5e-3),
    "descent.BATCH": (16, 64),
    "descent.WORSE": (1.1, 2.0),
    "descent.TRIED_FOR": (25, 100),
    "targets.INNER": (0, 3),
    "augmentation.MOVED": (16,),
    "augmentation.MIXED": (0.0,),
}
"""Constants, and the values that they are given besides their own."""
WORK = Path(__file__).parent / ".cache"


class Judge:
    """What networks lose of the original.

    Args:
        reference: the original.
        folder: where the test images are.
        other: images that nothing was fitted to; the test images where there are none.
    """

    def __init__(self, reference: Path, folder: Path, other: npt.NDArray[np.float32]) -> None:
        self._test = images(folder / "inputs" / "cifar10-test.npz")
        self._other = other if len(other) else self._test
        self._wanted = outputs(reference, self._other)
        self._spread = Spread(1)
        self._spread.add(self._wanted)
        with np.load(folder / "inputs" / "cifar10-test.npz") as test:
            self._labels = test["labels"]
        self._before = accuracy(reference, self._test, self._labels)

    def line(self, label: str, model: ir.Model, more: str) -> str:
        """A line of the table."""
        path = WORK / "tuned.onnx"
        ir.save(model, path)
        gap = outputs(path, self._other) - self._wanted
        error = float(self._spread.errors(squares_of(gap, 1)).mean())
        lost = self._before - accuracy(path, self._test, self._labels)
        return f"| {label} | {error:.4f} | {decibels(error):.2f} dB | {lost:.2f} | {more} |"


def outputs(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a network makes of images."""
    running = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name
    return np.concatenate([running.run(None, {name: x[i : i + 128]})[0] for i in range(0, len(x), 128)])


@contextmanager
def given_to(name: str, value: float) -> Iterator[str]:
    """Gives a constant of tuning another value for a while; what is told of it."""
    module, _, constant = name.rpartition(".")
    home = importlib.import_module(f"{HOME}.{module}")
    own = getattr(home, constant)
    setattr(home, constant, type(own)(value))
    try:
        yield f"{name} {value:g} for {own:g}"
    finally:
        setattr(home, constant, own)


def main() -> None:
    """Parses the command line and prints a line for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", default="resnet20", choices=list(MODELS))
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--steps", default="1000")
    parser.add_argument("--inputs", type=int, default=CALIBRATION)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vary", nargs="+", default=[], choices=[*TRIED, "all"], metavar="NAME")
    given = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    reference = given.folder / "models" / MODELS[given.network]
    x = images(given.folder / "inputs" / "cifar10-calibration.npz")
    fit, other = x[: given.inputs], x[max(given.inputs, CALIBRATION) :]
    judge = Judge(reference, given.folder, other)
    budget = {"macs": given.budget}
    began = time.perf_counter()
    candidate = graphopt.optimize(reference, budget, fit, aim="macs", seed=given.seed).model
    took = time.perf_counter() - began
    print(f"{given.network} at {given.budget:g} of the MACs, {len(fit)} images, seed {given.seed}\n")
    print("| | error | SQNR | points lost | rate, seconds |\n|---|---|---|---|---|")
    print(judge.line("fitted layer by layer", candidate, f"{took:.0f} s"), flush=True)

    def tuned(label: str, steps: int) -> None:
        began = time.perf_counter()
        found = graphopt.tune(reference, candidate, fit, steps=steps, seed=given.seed)
        took = time.perf_counter() - began
        told = "" if found else ", not kept"
        print(
            judge.line(f"{label}{steps} steps", found.model, f"{found.tuning.rate:.2g}{told}, {took:.0f} s"),
            flush=True,
        )

    varied = list(TRIED) if "all" in given.vary else given.vary
    for steps in map(int, given.steps.split(",")):
        tuned("", steps)
        for name in varied:
            for value in TRIED[name]:
                with given_to(name, value) as label:
                    tuned(f"{label}, ", steps)


if __name__ == "__main__":
    main()
