"""Check that graphopt's time grows with a model's size, not with its square, and that it starts fast.

Times `graphopt optimize` on chains of 1,000 and 10,000 small convolutions, each a whole process and
interleaved, and `graphopt --help`. Exit status: 0 within the targets, 1 over one, 2 when graphopt failed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Run, run

SMALL, LARGE = 1_000, 10_000

MAX_RATIO = 12.0
"""Target: time on `LARGE` convolutions over time on `SMALL`, at most."""

MAX_STARTUP_SECONDS = 0.3
"""Target: median time of `graphopt --help`, at most."""

CACHE = Path(__file__).parent / ".cache"


class ToolError(Exception):
    """graphopt could not be run."""


def startup(python: str, repeat: int) -> list[float]:
    """Return the wall seconds of `repeat` runs of `graphopt --help`, after one that warms the file cache."""
    command = [python, "-m", "graphopt", "--help"]
    return [_checked(run(command, CACHE.parent)).seconds for _ in range(repeat + 1)][1:]


def growth(python: str, models: dict[int, Path], rounds: int) -> list[dict[int, Run]]:
    """Return for each round the run of `graphopt optimize` on each model, by its number of convolutions."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(rounds):
            order = sorted(models, reverse=turn % 2 == 1)
            command = [python, "-m", "graphopt", "optimize"]
            results.append(
                {
                    count: _checked(
                        run([*command, str(models[count]), "-o", str(folder / "out.onnx")], folder)
                    )
                    for count in order
                }
            )
    return results


def _checked(result: Run) -> Run:
    if result.failure:
        raise ToolError(f"graphopt: {result.failure}")
    return result


def _build(folder: Path) -> dict[int, Path]:
    """Build the chains that are missing in `folder`, in another process, and return their paths."""
    counts = [str(SMALL), str(LARGE)]
    command = [sys.executable, "-m", "benchmarks.build_models", str(folder), "--missing", "--chain", *counts]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {count: (folder / f"chain{count}.onnx").resolve() for count in (SMALL, LARGE)}


def _report_startup(seconds: Sequence[float]) -> bool:
    median = statistics.median(seconds)
    passed = median <= MAX_STARTUP_SECONDS
    print(f"graphopt --help: {median:.3f} s (at most {MAX_STARTUP_SECONDS:g}): {_word(passed)}")
    return passed


def _report_growth(rounds: Sequence[dict[int, Run]]) -> bool:
    for count in (SMALL, LARGE):
        seconds = statistics.median(results[count].seconds for results in rounds)
        peak = statistics.median(results[count].peak_mb for results in rounds)
        print(f"{count:,} convolutions: {seconds:.2f} s, {peak:.0f} MB")
    ratio = statistics.median(results[LARGE].seconds / results[SMALL].seconds for results in rounds)
    passed = ratio <= MAX_RATIO
    print(f"ratio: {ratio:.1f} (at most {MAX_RATIO:g}): {_word(passed)}")
    return passed


def _word(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=7, help="runs of graphopt --help")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where the chains are built")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has graphopt")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both checks and return the exit status."""
    arguments = _parse(argv)
    try:
        fast = _report_startup(startup(arguments.python, arguments.repeat))
        linear = _report_growth(growth(arguments.python, _build(arguments.folder), arguments.rounds))
    except (ToolError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if fast and linear else 1


if __name__ == "__main__":
    raise SystemExit(main())
