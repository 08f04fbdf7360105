"""The main job on the sample model: scan, optimize under a MAC budget, verify, bench, and what came of it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).parent
MODEL = HERE / "inception-digits.onnx"
CALIBRATION = HERE / "digits-calibration.npz"
TEST = HERE / "digits-test.npz"
OUT_FOLDER = HERE.parent / "demo"
BUDGET = "macs=0.5"
KEPT, QUALITY = "agreement>=0.95", "agreement=0.97"


def graphopt(*arguments: object) -> None:
    """Shows and runs one graphopt command; ends the demo where it fails."""
    words = [str(argument) for argument in arguments]
    shown = [word.replace(f"{HERE.parent}/", "") for word in words]
    print(f"\n$ graphopt {shlex.join(shown)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "graphopt", *words], check=False).returncode
    if code:
        sys.exit(code)


def accuracy(model: Path) -> float:
    """Top-1 accuracy on the held-out test images, 0 to 1."""
    with np.load(TEST) as test:
        images, labels = test["input"], test["label"]
    scores = ort.InferenceSession(model).run(None, {"input": images})[0]
    return float((scores.argmax(axis=1) == labels).mean())


def test_inputs(folder: Path) -> Path:
    """The test images alone, as graphopt takes them."""
    path = folder / "test-inputs.npz"
    with np.load(TEST) as test:
        np.savez(path, input=test["input"])
    return path


def main() -> None:
    """Runs the demo."""
    OUT_FOLDER.mkdir(exist_ok=True)
    out, report, latency = (OUT_FOLDER / name for name in ("smaller.onnx", "report.json", "latency.json"))
    graphopt("scan", MODEL)
    graphopt(
        *("optimize", MODEL, "-o", out, "--calibration", CALIBRATION),
        *("--budget", BUDGET, "--require", KEPT, "--report", report),
    )
    with tempfile.TemporaryDirectory() as folder:
        graphopt(
            *("verify", MODEL, out, "--calibration", test_inputs(Path(folder)), "--budget", QUALITY),
        )
    graphopt("bench", MODEL, out)
    timing = subprocess.run(
        [sys.executable, "-m", "graphopt", "bench", MODEL, out, "--json"],
        check=True,
        stdout=subprocess.PIPE,
    )
    latency.write_bytes(timing.stdout)
    summary(json.loads(report.read_text()), json.loads(timing.stdout), out)


def summary(report: dict, timing: dict, out: Path) -> None:
    """Prints the figures before and after."""
    before, after = report["before"], report["after"]
    rows = [
        ("MACs", f"{before['macs']:,}", f"{after['macs']:,}"),
        ("parameters", f"{before['params']:,}", f"{after['params']:,}"),
        ("latency, 1 thread", f"{timing['reference_ms']:.2f} ms", f"{timing['candidate_ms']:.2f} ms"),
        ("accuracy, 400 test images", f"{accuracy(MODEL):.2%}", f"{accuracy(out):.2%}"),
    ]
    print(f"\n{'':26}{'before':>16}{'after':>16}")
    for name, old, new in rows:
        print(f"{name:26}{old:>16}{new:>16}")
    print(f"{timing['speedup']:.2f} times as fast; the model is {out.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
