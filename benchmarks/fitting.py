"""Time and peak memory of a budgeted run, and where the time goes: planning, fitting and measuring.

    python -m benchmarks.fitting                            # ResNet-50 with random weights, 256 images
    python -m benchmarks.fitting MODEL INPUTS.npz --budget agreement=0.97 --seconds 150

The images of the first form are noise with a 1/f spectrum. Exit status: 0 within the targets, 1 over one,
2 when graphopt failed; a budget that was missed (exit code 3) took its time all the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import run

CACHE = Path(__file__).parent / ".cache"

SECONDS = 15 * 60
"""Target for ResNet-50."""
PEAK_MB = 6_000
"""Target for any model."""


def images(path: Path, count: int = 256, size: int = 224) -> Path:
    """Writes seeded noise [count, 3, size, size] with the spectrum of photographs, and returns the path."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    envelope = 1 / np.maximum(frequency, 1 / size)
    found = np.empty((count, 3, size, size), np.float32)
    for image in found:
        spectrum = np.fft.rfft2(rng.standard_normal((3, size, size))) * envelope
        noise = np.fft.irfft2(spectrum, (size, size))
        image[:] = noise / noise.std()
    np.savez(path, data=found)
    return path


def resnet50(folder: Path) -> Path:
    """Builds ResNet-50 in another process where it is missing, and returns its path."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.build_models",
        str(folder),
        "--missing",
        "--models",
        "resnet50",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (folder / "resnet50.onnx").resolve()


def measure(model: Path, inputs: Path, budgets: Sequence[str], seconds: float, python: str) -> int:
    """Runs the command, prints its figures, and returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [flag for budget in budgets for flag in ("--budget", budget)]
        command = [python, "-m", "graphopt", "optimize", str(model), "-o", "out.onnx"]
        command += ["--calibration", str(inputs), "--report", "report.json", *flags]
        done = run(command, folder, timeout=4 * seconds)
        report = folder / "report.json"
        if not report.exists():
            print(f"graphopt: {done.failure}", file=sys.stderr)
            return 2
        document = json.loads(report.read_text())
    ratio = document["after"]["macs"] / document["before"]["macs"]
    print(f"{model.name}, {', '.join(budgets)}: {ratio:.3f} of the MACs, exit code {document['exit_code']}")
    for step, taken in sorted(document["seconds"].items(), key=lambda item: -item[1]):
        if taken >= 0.01 * done.seconds:
            print(f"  {step:10}{taken:7.1f} s")
    passed = done.seconds <= seconds and done.peak_mb <= PEAK_MB
    print(f"{done.seconds:.0f} s (at most {seconds:g}), {done.peak_mb:.0f} MB (at most {PEAK_MB})")
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(prog="fitting", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="ResNet-50, built here, where not given")
    parser.add_argument("inputs", type=Path, nargs="?", help="its calibration inputs")
    parser.add_argument("--budget", action="append", help="macs=0.8 where not given")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="target")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has graphopt")
    given = parser.parse_args(argv)
    if given.model is not None and given.inputs is None:
        parser.error("a model needs its inputs")
    budgets = given.budget or ["macs=0.8"]
    if given.model is not None:
        return measure(given.model.resolve(), given.inputs.resolve(), budgets, given.seconds, given.python)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        inputs = images(Path(name) / "images.npz")
        return measure(resnet50(CACHE), inputs, budgets, given.seconds, given.python)


if __name__ == "__main__":
    raise SystemExit(main())
