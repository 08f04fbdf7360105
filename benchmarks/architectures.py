"""What exact rewriting saves on the architectures of `models/architectures.py`, against other optimizers.

For each: MACs and onnxruntime latency (one thread, all variants timed in turn) before, after
``graphopt optimize``, and the best that onnxsim, onnxslim or onnxscript reaches. Prints a markdown table.
Exit status 1 when graphopt made one of them more than 3 % slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import graphopt
from benchmarks.measure import run
from benchmarks.peers import TOOLS, Tool
from models.architectures import ARCHITECTURES

MAX_SLOWDOWN = 1.03
"""Target: latency after over latency before, at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one architecture.

    Attributes:
        name: the architecture.
        macs: MACs of each variant; ``before``, ``graphopt`` and each peer that ran.
        speedup: latency before over latency of the variant, the median of paired ratios.
        milliseconds: median latency of each variant.
    """

    name: str
    macs: Mapping[str, int]
    speedup: Mapping[str, float]
    milliseconds: Mapping[str, float]

    def best_peer(self) -> tuple[int, float]:
        """The lowest MACs and the largest speed-up of any peer."""
        peers = [name for name in self.macs if name not in ("before", "graphopt")]
        if not peers:
            return self.macs["before"], 1.0
        return min(self.macs[p] for p in peers), max(self.speedup[p] for p in peers)

    def line(self) -> str:
        """The row of the table."""
        macs, speedup = self.best_peer()
        return (
            f"| {self.name} | {_mega(self.macs['before'])} | {_mega(self.macs['graphopt'])} | {_mega(macs)} "
            f"| {self.milliseconds['before']:.2f} ms | {self.milliseconds['graphopt']:.2f} ms "
            f"| {self.speedup['graphopt']:.2f} | {speedup:.2f} |"
        )


HEADER = (
    "| architecture | MACs before | graphopt | best peer | latency before | graphopt | times as fast "
    "| best peer |\n|---|---|---|---|---|---|---|---|"
)


def _mega(macs: int) -> str:
    return f"{macs / 1e6:.1f} M"


def measure(name: str, pythons: Mapping[str, str], repeat: int, aim: str) -> Row:
    """Runs every tool on one architecture, then times all variants in turn."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        source = folder / "before.onnx"
        onnx.save(ARCHITECTURES[name](), source)
        variants = {"before": source}
        for tool in TOOLS[1:]:
            output = folder / f"{tool.name}.onnx"
            if _runs(tool, pythons[tool.name], source, output, folder, aim):
                variants[tool.name] = output
        macs = {variant: graphopt.scan(path).totals.macs or 0 for variant, path in variants.items()}
        seconds = times(variants, repeat)
    before = seconds["before"]
    return Row(
        name,
        macs,
        {variant: float(np.median(before / times)) for variant, times in seconds.items()},
        {variant: float(np.median(times)) * 1e3 for variant, times in seconds.items()},
    )


def _runs(tool: Tool, python: str, source: Path, output: Path, folder: Path, aim: str) -> bool:
    command = tool.command(python, source, output)
    if tool.name == "graphopt":
        command += ["--aim", aim]
    result = run(command, folder)
    if result.failure is not None:
        print(f"{tool.name} on {source.name}: {result.failure}", file=sys.stderr)
    return result.failure is None and output.exists()


def times(variants: Mapping[str, Path], repeat: int) -> dict[str, np.ndarray]:
    """Seconds of each run of each variant, the variants in turn and the first of a turn changing."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {name: ort.InferenceSession(path, options) for name, path in variants.items()}
    shape = next(iter(sessions.values())).get_inputs()[0].shape
    feed = {"x": np.random.default_rng(0).standard_normal(shape, np.float32)}
    for session in list(sessions.values()) * 3:
        session.run(None, feed)
    names = list(sessions)
    seconds = {name: np.empty(repeat) for name in names}
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            sessions[name].run(None, feed)
            seconds[name][turn] = time.perf_counter() - start
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="all when none is given")
    parser.add_argument("--repeat", type=int, default=50, help="timed runs of each variant")
    parser.add_argument("--aim", choices=("time", "macs"), default="time")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has the peers")
    arguments = parser.parse_args(argv)
    pythons = {tool.name: arguments.peer_python if tool.peer else sys.executable for tool in TOOLS}
    print(HEADER)
    rows = []
    for name in arguments.names or ARCHITECTURES:
        rows.append(measure(name, pythons, arguments.repeat, arguments.aim))
        print(rows[-1].line(), flush=True)
    speedups = [row.speedup["graphopt"] for row in rows]
    print(f"\nmedian speed-up {statistics.median(speedups):.2f}, lowest {min(speedups):.2f}")
    return int(min(speedups) < 1 / MAX_SLOWDOWN)


if __name__ == "__main__":
    sys.exit(main())
