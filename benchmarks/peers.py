"""Time graphopt against other ONNX optimizers, as whole processes, and count what they write.

Every tool reads the model's file and writes an output file in a process of its own, imports included;
graphopt also verifies. The tools run once a round, in rotating order. Operators are those of the written
model, its bodies and Constant nodes included. Exit status: 0 within the targets, 1 over a target, 2 when
there was nothing to compare.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.measure import Run, run

MAX_TIME_RATIO = 1.5
"""Target: graphopt's wall time over that of the fastest peer, at most."""

MAX_MEMORY_RATIO = 1.0
"""Target: graphopt's peak memory over that of the median peer, at most."""

MODELS = ("resnet50", "vgg19")
CACHE = Path(__file__).parent / ".cache"
WIDTH = 80

_EXTERNAL = ("--save-as-external-data",)
_SAVE = "onnx.save(model, output, save_as_external_data=os.path.exists(source + '.data'))"
_LOAD_SAVE = f"import os, sys, onnx; source, output = sys.argv[1:]; model = onnx.load(source); {_SAVE}"
_ONNXSCRIPT = (
    "import os, sys, onnx; from onnxscript import optimizer, rewriter; source, output = sys.argv[1:]; "
    f"model = optimizer.optimize(rewriter.rewrite(onnx.load(source))); {_SAVE}"
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A program to time: a module to have, and the interpreter's arguments, with IN and OUT to fill in."""

    name: str
    module: str
    arguments: tuple[str, ...]
    peer: bool = True
    external: tuple[str, ...] = ()
    """Further arguments for a model with external data."""

    def command(self, python: str, source: Path, output: Path) -> list[str]:
        """Return the command line that reads `source` and writes `output`."""
        paths = {"IN": str(source), "OUT": str(output)}
        extra = self.external if len(_files(source)) > 1 else ()
        return [python, *(paths.get(argument, argument) for argument in self.arguments), *extra]


TOOLS = (
    Tool("load + save", "onnx", ("-c", _LOAD_SAVE, "IN", "OUT"), peer=False),
    Tool("onnxsim", "onnxsim", ("-m", "onnxsim", "IN", "OUT"), external=_EXTERNAL),
    Tool("onnxslim", "onnxslim", ("-m", "onnxslim", "IN", "OUT"), external=_EXTERNAL),
    Tool("onnxscript", "onnxscript", ("-c", _ONNXSCRIPT, "IN", "OUT")),
    Tool("graphopt", "graphopt", ("-m", "graphopt", "optimize", "IN", "-o", "OUT"), peer=False),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one tool took on one model, over all rounds, and wrote; a failed tool has no runs."""

    seconds: tuple[float, ...] = ()
    peak_mb: tuple[float, ...] = ()
    failure: str | None = None
    operators: int | None = None
    bytes: int | None = None
    """Of the written file, with its external data."""

    @property
    def median_seconds(self) -> float:
        """Median wall time."""
        return statistics.median(self.seconds)

    @property
    def median_mb(self) -> float:
        """Median peak resident set, in MB."""
        return statistics.median(self.peak_mb)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All tools on one model. The ratios are None when graphopt or every peer failed."""

    model: str
    bytes: int
    timings: dict[str, Timing]
    fastest_peer: str | None
    time_ratio: float | None
    """Median over the rounds of graphopt's wall time / the fastest peer's in the same round."""
    memory_ratio: float | None
    """graphopt's peak memory / that of the median peer."""
    more_operators: int | None = None
    """Operators that graphopt's model has more than that of the peer with the fewest."""
    more_bytes: int | None = None
    """Bytes that it takes more than that of the peer with the fewest."""

    @property
    def passed(self) -> bool | None:
        """Whether graphopt kept the targets; None when there is nothing to compare."""
        if self.time_ratio is None or self.memory_ratio is None:
            return None
        return self.time_ratio <= MAX_TIME_RATIO and self.memory_ratio <= MAX_MEMORY_RATIO


def compare(model: Path, timings: dict[str, Timing]) -> Comparison:
    """Return graphopt's standing among the peers that ran on `model`."""
    size = sum(file.stat().st_size for file in _files(model))
    peers = {tool.name: timings[tool.name] for tool in TOOLS if tool.peer and not timings[tool.name].failure}
    ours = timings["graphopt"]
    if ours.failure or not peers:
        return Comparison(model.stem, size, timings, None, None, None)
    fastest = min(peers, key=lambda name: peers[name].median_seconds)
    ratios = [mine / theirs for mine, theirs in zip(ours.seconds, peers[fastest].seconds, strict=True)]
    median_peer_mb = statistics.median(timing.median_mb for timing in peers.values())
    memory_ratio = ours.median_mb / median_peer_mb
    operators = [timing.operators for timing in peers.values() if timing.operators is not None]
    sizes = [timing.bytes for timing in peers.values() if timing.bytes is not None]
    return Comparison(
        *(model.stem, size, timings, fastest, statistics.median(ratios), memory_ratio),
        None if ours.operators is None else ours.operators - min(operators),
        None if ours.bytes is None else ours.bytes - min(sizes),
    )


def measure(
    model: Path, pythons: dict[str, str], absent: dict[str, str], rounds: int, scratch: Path
) -> dict[str, Timing]:
    """Run every tool on `model` once a round, with outputs in `scratch`, and return their timings by name."""
    scratch.mkdir(parents=True, exist_ok=True)
    for file in _files(model):
        _warm(file)
    failures = dict(absent)
    runs: dict[str, list[Run]] = {tool.name: [] for tool in TOOLS}
    written: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for turn in range(rounds):
            for tool in _rotated(TOOLS, turn):
                if tool.name in failures:
                    continue
                result, made = _run_tool(tool, pythons[tool.name], model, Path(folder).resolve())
                runs[tool.name].append(result)
                if made is not None:
                    written[tool.name] = made
                if result.failure:
                    failures[tool.name] = result.failure
                    _note(f"{tool.name} on {model.stem}: {result.failure}")
    return {name: _timing(runs[name], failures.get(name), written.get(name)) for name in runs}


def _run_tool(tool: Tool, python: str, model: Path, folder: Path) -> tuple[Run, tuple[int, int] | None]:
    """Run one tool; count operators and bytes of what it wrote. A tool that wrote nothing has failed."""
    output = folder / "output.onnx"
    result = run(tool.command(python, model, output), folder)
    made = None
    if result.failure is None and not output.exists():
        result = dataclasses.replace(result, failure="no output file")
    elif result.failure is None:
        graph = onnx.load(output, load_external_data=False).graph
        made = _operators(graph), sum(file.stat().st_size for file in folder.iterdir())
    for file in folder.iterdir():
        file.unlink()
    return result, made


def _operators(graph: onnx.GraphProto) -> int:
    """The operators of a graph and of the bodies in it."""
    bodies = [body for node in graph.node for each in node.attribute for body in (each.g, *each.graphs)]
    return len(graph.node) + sum(map(_operators, bodies))


def _timing(runs: Sequence[Run], failure: str | None, written: tuple[int, int] | None) -> Timing:
    if failure or written is None:
        return Timing(failure=failure or "no output file")
    return Timing(tuple(run.seconds for run in runs), tuple(run.peak_mb for run in runs), None, *written)


def _absent(pythons: dict[str, str]) -> dict[str, str]:
    """Return the tools that can't be imported, with the reason; importing also warms the file cache."""
    failures: dict[str, str] = {}
    for tool in TOOLS:
        result = _import(pythons[tool.name], tool.module)
        if result:
            failures[tool.name] = result
            _note(f"{tool.name}: {result}")
    return failures


def _import(python: str, module: str) -> str | None:
    try:
        return run([python, "-c", f"import {module}"], CACHE.parent, timeout=60).failure
    except OSError as error:
        return f"{python}: {error.strerror}"


def _rotated(tools: Sequence[Tool], turn: int) -> list[Tool]:
    shift = turn % len(tools)
    return [*tools[shift:], *tools[:shift]]


def _files(model: Path) -> list[Path]:
    """Return the model's file and its external data, if there is any."""
    return [file for file in (model, model.with_name(model.name + ".data")) if file.exists()]


def _warm(file: Path) -> None:
    """Read a file once, so that no tool pays for a cold cache."""
    with file.open("rb") as stream:
        while stream.read(1 << 20):
            pass


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def build(names: Sequence[str], folder: Path) -> list[Path]:
    """Return model files: paths as they are, names of architectures built in `folder` where missing."""
    return [Path(name).resolve() if name.endswith(".onnx") else _built(name, folder) for name in names]


def _built(name: str, folder: Path) -> Path:
    """Return the model of architecture `name`, built in another process so that this one stays small."""
    command = [sys.executable, "-m", "benchmarks.build_models", str(folder), "--missing", "--models", name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (folder / f"{name}.onnx").resolve()


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print one model's table and the verdict under it."""
    table = Table(title=f"{comparison.model}, {comparison.bytes / 1e6:.0f} MB", width=WIDTH)
    table.add_column("tool", ratio=2)
    for heading in ("seconds", "fastest", "slowest", "peak MB", "ops", "kB"):
        table.add_column(heading, justify="right", ratio=1)
    for name, timing in comparison.timings.items():
        table.add_row(name, *_cells(timing))
    console.print(table)
    console.print(escape(_verdict(comparison)), highlight=False)


def _cells(timing: Timing) -> list[str]:
    if timing.failure:
        return ["-"] * 6
    seconds = (timing.median_seconds, min(timing.seconds), max(timing.seconds))
    written = f"{timing.operators:,}", f"{(timing.bytes or 0) / 1e3:,.0f}"
    return [*(f"{value:.2f}" for value in seconds), f"{timing.median_mb:.0f}", *written]


def _verdict(comparison: Comparison) -> str:
    if comparison.time_ratio is None or comparison.memory_ratio is None:
        return "no comparison: graphopt or every peer is missing"
    more = f"{comparison.more_operators:+,} operators, {comparison.more_bytes:+,} bytes"
    return (
        f"graphopt {'passed' if comparison.passed else 'FAILED'}: "
        f"time / {comparison.fastest_peer} {comparison.time_ratio:.2f} (at most {MAX_TIME_RATIO:g}), "
        f"memory / median peer {comparison.memory_ratio:.2f} (at most {MAX_MEMORY_RATIO:g}); "
        f"beside the least of the peers {more}"
    )


def _document(comparisons: Sequence[Comparison], rounds: int) -> str:
    models = [_record(comparison) for comparison in comparisons]
    targets = {"time_ratio": MAX_TIME_RATIO, "memory_ratio": MAX_MEMORY_RATIO}
    return json.dumps({"rounds": rounds, "targets": targets, "models": models}, indent=2, allow_nan=False)


def _record(comparison: Comparison) -> dict[str, object]:
    """Return a comparison as JSON values, the medians and the verdict included."""
    record = dataclasses.asdict(comparison)
    for name, timing in comparison.timings.items():
        failed = timing.failure is not None
        record["timings"][name]["median_seconds"] = None if failed else timing.median_seconds
        record["timings"][name]["median_mb"] = None if failed else timing.median_mb
    return {**record, "passed": comparison.passed}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help="names of architectures or .onnx files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=CACHE, help="where models are built and outputs written"
    )
    parser.add_argument("--python", default=sys.executable, help="interpreter that has graphopt and onnx")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    arguments = parser.parse_args(argv)
    missing = [name for name in arguments.models if name.endswith(".onnx") and not Path(name).is_file()]
    if missing:
        parser.error(f"no such file: {', '.join(missing)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line asks for and return the exit status."""
    arguments = _parse(argv)
    try:
        models = build(arguments.models, arguments.folder)
    except subprocess.CalledProcessError:
        return 2  # the builder has said why
    pythons = {tool.name: arguments.peer_python if tool.peer else arguments.python for tool in TOOLS}
    absent = _absent(pythons)
    console = Console(width=WIDTH)
    comparisons = []
    for model in models:
        timings = measure(model, pythons, absent, arguments.rounds, arguments.folder)
        comparison = compare(model, timings)
        comparisons.append(comparison)
        if not arguments.json:
            print_comparison(comparison, console)
    if arguments.json:
        print(_document(comparisons, arguments.rounds))
    verdicts = {comparison.passed for comparison in comparisons}
    return 1 if False in verdicts else 2 if None in verdicts else 0


if __name__ == "__main__":
    raise SystemExit(main())
