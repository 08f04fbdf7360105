"""Accuracy against MACs on trained networks, beside the published training-free baseline on the same inputs.

    python -m benchmarks.accuracy FOLDER [--budgets 0.8,0.5] [--seeds 0,1,2] [--models resnet20,resnet56]
                                  [--tune steps=4000] [--inputs 256]

FOLDER holds ``models/*.onnx`` and ``inputs/*.npz`` as the CIFAR-10 networks need them. For every budget the
table gives the points of top-1 that are lost on the test images, the mean over the seeds. The baseline is
BALF (arXiv 2509.25136, 2025), computed here from its maths: each kernel as k×k → 1x1 by a singular value
decomposition of the weights whitened by the inputs' covariance, ranks by a Lagrange multiplier on energy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import graphopt
from graphopt.analysis.linear import Linear, operator
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import statistics as calibration_statistics
from graphopt.calibration.inputs import Calibration, load
from graphopt.model import edit
from graphopt.model.io import load as load_model
from graphopt.model.io import save
from graphopt.numerics.lowrank.tucker import Factors
from graphopt.rewrites.factoring import factored
from graphopt.rewrites.patterns.common import site
from graphopt.types import Candidate

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION = 1024
MODELS = {"resnet20": "resnet20-cifar10.onnx", "resnet56": "resnet56-cifar10-bn.onnx"}


def images(path: Path, count: int | None = None) -> npt.NDArray[np.float32]:
    """Images as the networks take them, [N, 3, 32, 32]."""
    with np.load(path) as given:
        pixels = given["images"][:count].astype(np.float32) / 255
    found = (pixels - np.float32(MEAN)) / np.float32(DEVIATION)
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def accuracy(path: Path, x: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> float:
    """Top-1 accuracy in percent."""
    running = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = running.get_inputs()[0].name
    scores = [running.run(None, {name: x[i : i + 250]})[0] for i in range(0, len(x), 250)]
    return float((np.concatenate(scores).argmax(axis=1) == labels).mean() * 100)


# ---------------------------------------------------------------- the baseline


def whitened(linear: Linear, covariance: npt.NDArray[np.float64]) -> tuple[Any, Any, Any]:
    """U [o, o], singular values and S^(-1/2)-weighted right vectors [o, d] of W S^(1/2)."""
    weight = linear.weight().reshape(linear.out_channels or 1, -1)
    values, vectors = np.linalg.eigh(
        covariance + 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    )
    root = vectors * np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    left, singular, right = np.linalg.svd(weight @ root, full_matrices=False)
    return left, singular, right @ np.linalg.inv(root)


def balf(model: Path, inputs: Calibration, ratio: float, out: Path) -> None:
    """Writes the network that the baseline makes at a part of the MACs."""
    source = load_model(model)
    exact = graphopt.optimize(model).model
    analysis = Analysis(exact, bindings=inputs.sizes())
    layers = [
        v for v in analysis.linears if not v.pointwise and min(v.in_channels or 0, v.out_channels or 0) >= 8
    ]
    statistics = calibration_statistics.statistics(analysis, layers, inputs, inputs.fit, 0)
    found = {v.name: whitened(v, statistics[v.name].groups[0].covariance) for v in layers}
    fixed = sum(v.macs or 0 for v in analysis.linears) - sum(v.macs or 0 for v in layers)
    total = sum(v.macs or 0 for v in Analysis(source.model, bindings=inputs.sizes()).linears)

    def ranks(weight: float) -> dict[str, int]:
        chosen = {}
        for v in layers:
            energy = found[v.name][1] ** 2
            lost = 1 - np.cumsum(energy) / energy.sum()
            costs = [factored.cost(v, None, r + 1).macs or 0 for r in range(len(energy))]
            whole = v.macs or 0
            values = [
                e + weight * c / total if c < whole else np.inf for e, c in zip(lost, costs, strict=True)
            ]
            best = int(np.argmin(values))
            chosen[v.name] = best + 1 if values[best] < weight * whole / total else 0
        return chosen

    def cost(chosen: dict[str, int]) -> int:
        return fixed + sum(
            (factored.cost(v, None, chosen[v.name]).macs if chosen[v.name] else v.macs) or 0 for v in layers
        )

    low, high = 1e-9, 1e9
    for _ in range(80):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if cost(ranks(middle)) <= ratio * total else (middle, high)
    chosen = ranks(high)
    changes = []
    for v in layers:
        rank = chosen[v.name]
        if rank:
            left, singular, right = found[v.name]
            core = (singular[:rank, None] * right[:rank]).reshape(rank, v.in_channels or 1, *v.kernel)
            factors = Factors(None, core, left[:, :rank])
            moments = statistics[v.name].groups[0]
            gap = (v.weight() - factors.kernel()).reshape(v.out_channels or 1, operator.dimension(v))
            bias = gap @ moments.mean + (v.bias() if v.bias() is not None else 0.0)
            candidate = Candidate(
                "balf", site(analysis, [v.node]), analysis.linear_cost(v), factored.cost(v, None, rank)
            )
            changes.append((candidate, factored.replacement(v, factors, bias)))
    save(edit.apply(exact, changes), out)


# ---------------------------------------------------------------- the table


def measure(
    folder: Path,
    name: str,
    budgets: Sequence[float],
    seeds: Sequence[int],
    work: Path,
    tune: str | None = None,
    inputs: int = CALIBRATION,
) -> None:
    """Prints the table of one network.

    Args:
        folder: where models and inputs are.
        name: of the network, in `MODELS`.
        budgets: parts of the MACs.
        seeds: of the runs of each.
        work: where networks are written.
        tune: how long they are tuned; None for not at all.
        inputs: calibration images.
    """
    model = folder / "models" / MODELS[name]
    given = images(folder / "inputs" / "cifar10-calibration.npz", inputs)
    x = images(folder / "inputs" / "cifar10-test.npz")
    with np.load(folder / "inputs" / "cifar10-test.npz") as test:
        labels = test["labels"]
    before = accuracy(model, x, labels)
    print(f"\n{name}: {before:.2f} % on {len(x)} images")
    print("| MACs | points lost | by seed | agreement held out | seconds | BALF lost |")
    print("|---|---|---|---|---|---|")
    split = load(given, load_model(model).model, 0)
    for budget in budgets:
        lost, agreed, seconds = [], [], []
        for seed in seeds:
            start = time.perf_counter()
            asked = {"macs": budget}
            result = graphopt.optimize(model, asked, given, seed=seed, metric="classification", tune=tune)
            seconds.append(time.perf_counter() - start)
            result.save(work / "ours.onnx")
            lost.append(before - accuracy(work / "ours.onnx", x, labels))
            quality = result.report.quality
            agreed.append(quality.agreement or 0.0 if quality is not None else 0.0)
        balf(model, split, budget, work / "balf.onnx")
        theirs = before - accuracy(work / "balf.onnx", x, labels)
        each = ", ".join(f"{value:.2f}" for value in lost)
        figures = [f"{budget:g}", f"{np.mean(lost):.2f}", each, f"{np.mean(agreed):.2%}"]
        figures += [f"{np.median(seconds):.0f}", f"{theirs:.2f}"]
        print(f"| {' | '.join(figures)} |", flush=True)


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budgets", default="0.8,0.7,0.6,0.5,0.4,0.3")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tune", help="minutes, auto, or steps=N")
    parser.add_argument("--inputs", type=int, default=CALIBRATION)
    given = parser.parse_args()
    work = Path(__file__).parent / ".cache"
    work.mkdir(exist_ok=True)
    budgets = [float(part) for part in given.budgets.split(",")]
    for name in given.models.split(","):
        seeds = [int(seed) for seed in given.seeds.split(",")]
        measure(given.folder, name, budgets, seeds, work, given.tune, given.inputs)


if __name__ == "__main__":
    main()
