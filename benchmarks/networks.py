"""What trained networks of other kinds lose at a budget of MACs, each in its own measure, on other inputs.

    python -m benchmarks.networks FOLDER [--networks squeezenet,dncnn,style,…] [--seeds 0,1,2]

FOLDER holds ``models/*.onnx`` and ``inputs/`` as the networks need them. SqueezeNet is fitted to half of the
400 images, and its agreement with the original is measured on the other half. DnCNN is fitted to patches with
noise, and its PSNR is measured on noisy Set12. The style network is fitted to 24 photographs, and its SQNR is
measured on ten others. The others are networks that people deploy: what they are fitted to, and what they
lose on other inputs, is told by the scripts in FOLDER's ``evaluate/``, one for each task. Exit status: 0 when
every mean over the seeds is within its target, 1 when one is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

import graphopt

Images = npt.NDArray[np.float32]
BGR_MEAN = np.float32([103.939, 116.779, 123.68]).reshape(3, 1, 1)
NOISE = 25 / 255
"""Standard deviation of the noise that DnCNN was trained to remove."""


class Network(NamedTuple):
    """A network, what it is fitted to, and how what it lost is measured.

    Attributes:
        model: file name.
        unit: of the figure.
        targets: by budget the figure to reach.
        least: whether the figure has to be at least the target, or else at most.
        inputs: from the folder and a seed the calibration inputs, and what the figure is measured on.
        measure: from the files of the original and of the result, and the latter, the figure.
    """

    model: str
    unit: str
    targets: dict[float, float]
    least: bool
    inputs: Callable[[Path, int], tuple[Images, Any]]
    measure: Callable[[Path, Path, Any], float]


def photograph(path: Path, size: int | None = None) -> Images:
    """An image as [3, H, W], RGB from 0 to 255, scaled to a square of a size."""
    image = Image.open(path).convert("RGB")
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32).transpose(2, 0, 1)


def outputs(running: ort.InferenceSession, inputs: Iterable[Images]) -> list[Images]:
    """The first output for each of some inputs, which are run one by one."""
    name = running.get_inputs()[0].name
    return [running.run(None, {name: each[None]})[0] for each in inputs]


# ---------------------------------------------------------------- SqueezeNet


def squeezenet_inputs(folder: Path, seed: int) -> tuple[Images, Images]:
    """Half of the images each, drawn by the seed."""
    files = sorted((folder / "inputs" / "imagenet").glob("*.jpg"))
    images = np.stack([photograph(path)[::-1] - BGR_MEAN for path in files])
    order = np.random.default_rng(seed).permutation(len(images))
    half = len(images) // 2
    return images[order[:half]], images[order[half:]]


def agreement(original: Path, result: Path, images: Images) -> float:
    """Percent of the images with the same first class."""
    ours, theirs = (
        np.concatenate(outputs(session(path), images)).reshape(len(images), -1) for path in (original, result)
    )
    return float((ours.argmax(1) == theirs.argmax(1)).mean() * 100)


# ---------------------------------------------------------------- DnCNN


def dncnn_inputs(folder: Path, seed: int) -> tuple[Images, list[Images]]:
    """Patches with noise drawn by the seed, and the clean images of Set12, [1, H, W] from 0 to 1."""
    with np.load(folder / "inputs" / "bsd-calibration-gray.npz") as given:
        patches = given[given.files[0]].astype(np.float32)[:, None] / 255
    with np.load(folder / "inputs" / "set12-gray.npz") as given:
        clean = [given[name].astype(np.float32)[None] / 255 for name in given.files]
    noise = np.random.default_rng(seed).normal(0, NOISE, patches.shape)
    return (patches + noise).astype(np.float32), clean


def psnr_lost(original: Path, result: Path, clean: list[Images]) -> float:
    """Mean PSNR in dB that the result loses on noisy images."""
    rng = np.random.default_rng(100)
    noisy = [(image + rng.normal(0, NOISE, image.shape)).astype(np.float32) for image in clean]

    def psnr(path: Path) -> float:
        errors = [
            float(((np.clip(made[0], 0, 1) - image) ** 2).mean())
            for made, image in zip(outputs(session(path), noisy), clean, strict=True)
        ]
        return float(np.mean(-10 * np.log10(errors)))

    return psnr(original) - psnr(result)


# ---------------------------------------------------------------- style


def style_inputs(folder: Path, seed: int) -> tuple[Images, Images]:
    """24 photographs drawn by the seed, and four of faces and six others."""
    files = sorted((folder / "inputs" / "imagenet").glob("*.jpg"))
    order = np.random.default_rng(seed).permutation(len(files))
    fitted, others = ([files[i] for i in order[part]] for part in (slice(24), slice(24, 30)))
    with np.load(folder / "inputs" / "faces-320x240.npz") as given:
        faces = [Image.fromarray(given[name]).resize((720, 720)) for name in given.files[:4]]
    scaled = [np.asarray(face, np.float32).transpose(2, 0, 1) for face in faces]
    scaled += [photograph(path, 720) for path in others]
    return np.stack([photograph(path, 720) for path in fitted]), np.stack(scaled)


def sqnr(original: Path, result: Path, images: Images) -> float:
    """10·log10(Σ y² / Σ (y − ŷ)²) over all images, in dB."""
    signal = noise = 0.0
    both = (outputs(session(path), images) for path in (original, result))
    for exact, made in zip(*both, strict=True):
        signal += float((exact.astype(np.float64) ** 2).sum())
        noise += float(((exact.astype(np.float64) - made) ** 2).sum())
    return float(10 * np.log10(signal / noise))


# ---------------------------------------------------------------- networks that people deploy


def deployed(
    name: str, script: str, key: str, unit: str, targets: dict[float, float], *, least: bool = True
) -> Network:
    """A network with a script for its task.

    Args:
        name: of the model.
        script: of the folder ``evaluate``, without its ending.
        key: of the figure in what the script prints.
        unit: of the figure; one that begins with % is a hundred times what is printed.
        targets: by budget the figure to reach.
        least: whether the figure has to be at least the target, or else at most.
    """

    def inputs(folder: Path, seed: int) -> tuple[Images, Path]:
        return run_path(str(folder / "evaluate" / "inputs.py"))["load"](name, "fit")[1], folder

    def measure(original: Path, result: Path, folder: Path) -> float:
        command = [sys.executable, f"{script}.py", str(original.resolve()), str(result.resolve())]
        done = subprocess.run(
            command, cwd=folder / "evaluate", capture_output=True, text=True, check=True
        ).stdout
        told = json.loads(done.splitlines()[-1])
        figure = reduce(lambda found, part: found[part], key.split("."), told)
        return float(figure) * (100 if unit.startswith("%") else 1)

    return Network(f"{name}.onnx", unit, targets, least, inputs, measure)


# ---------------------------------------------------------------- the table

NETWORKS = {
    "squeezenet": Network(
        "squeezenet1.1-imagenet.onnx", "% agreement", {0.82: 90.0}, True, squeezenet_inputs, agreement
    ),
    "dncnn": Network(
        "dncnn-gray25.onnx", "dB PSNR lost", {0.6: 0.15, 0.4: 0.3}, False, dncnn_inputs, psnr_lost
    ),
    "style": Network("style-candy-winml.onnx", "dB SQNR", {0.6: 20.0}, True, style_inputs, sqnr),
    "yolov8n": deployed("yolov8n-320", "yolo", "recall", "% recall", {0.7: 97.0}),
    "efficientnet": deployed(
        "efficientnet-lite0-imagenet", "classification", "candidate_top1", "% top-1", {0.85: 84.0, 0.7: 75.5}
    ),
    "ppocrv4": deployed("ppocrv4-rec", "ctc", "equal", "% equal lines", {0.85: 99.0}),
    "ppocrv6": deployed("ppocrv6-rec-small", "ctc", "equal", "% equal lines", {0.85: 99.0}),
    "mobilefacenet": deployed(
        "mobilefacenet", "embedding", "candidate_false_accepts", "% false accepts", {0.7: 2.4}, least=False
    ),
    "esrgan": deployed("esrgan-medium-x2", "superres", "lost_db", "dB PSNR lost", {0.6: 0.05}, least=False),
}


def session(path: Path) -> ort.InferenceSession:
    """A session that says nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measured(network: Network, folder: Path, budget: float, seed: int, out: Path) -> tuple[float, float]:
    """The figure that one run reaches, and its seconds."""
    path = folder / "models" / network.model
    calibration, others = network.inputs(folder, seed)
    start = time.perf_counter()
    graphopt.optimize(path, {"macs": budget}, calibration, seed=seed).save(out)
    seconds = time.perf_counter() - start
    return network.measure(path, out, others), seconds


def table(folder: Path, names: Sequence[str], seeds: Sequence[int], out: Path) -> bool:
    """Prints a network and a budget a line; whether all are within their targets."""
    print("| network | MACs | figure | mean | by seed | target | seconds |")
    print("|---|---|---|---|---|---|---|")
    within = True
    for name in names:
        network = NETWORKS[name]
        for budget, target in network.targets.items():
            runs = [measured(network, folder, budget, seed, out) for seed in seeds]
            figures = [figure for figure, _ in runs]
            mean = float(np.mean(figures))
            within &= mean >= target if network.least else mean <= target
            each = ", ".join(f"{figure:.3f}" for figure in figures)
            limit = f"{'at least' if network.least else 'at most'} {target:g}"
            seconds = float(np.median([seconds for _, seconds in runs]))
            row = [name, f"{budget:g}", network.unit, f"{mean:.3f}", each, limit, f"{seconds:.0f}"]
            print(f"| {' | '.join(row)} |", flush=True)
    return within


def main() -> int:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    work = Path(__file__).parent / ".cache"
    work.mkdir(exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    return 0 if table(given.folder, given.networks.split(","), seeds, work / "network.onnx") else 1


if __name__ == "__main__":
    sys.exit(main())
