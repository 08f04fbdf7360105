"""The kinds of cases by name, and for each the function from a case's number to its finding."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from graphopt.runtime.session import structure
from graphopt.runtime.trial import survived
from tests.builders import Feeds
from tests.fuzz import backend, checking, graphs, networks, readers, shrinking
from tests.fuzz.checking import Finding

Check: TypeAlias = Callable[[int], Finding]

KEPT = 2
"""Models of one cause that a process shrinks and keeps."""
TRIES = 100
"""Smaller models that are tried for each."""


def random_graphs(folder: Path, careful: bool) -> Check:
    """Random graphs, exact rewrites; what fails is shrunk and kept.

    Careful, sizes at which onnxruntime ends the process that runs the original are left out, and graphs
    of which it ends the one that draws them.
    """
    seen: Counter[tuple[str, ...]] = Counter()

    def found(seed: int) -> Finding:
        if careful and dies(f"from tests.fuzz.graphs import graph; graph({seed})"):
            return Finding("unrunnable")
        graph = graphs.graph(seed)
        if graph is None:
            return Finding("unrunnable")
        options = checking.options_of(seed)

        def fed(model: onnx.ModelProto) -> list[Feeds]:
            inputs = graphs.feeds(model, seed)
            lived = survived(structure(ir.from_proto(model)), inputs) if careful else repeat(True)
            return [feeds for feeds, alive in zip(inputs, lived, strict=False) if alive]

        def checked(model: onnx.ModelProto) -> Finding:
            return checking.check(model, fed(model), **options)

        first = checked(graph.model)
        if not (first.fault or first.stopped) or first.kind == "hang" or seen[first.key] >= KEPT:
            return first
        seen[first.key] += 1
        smallest = shrinking.shrink(
            graph.model,
            lambda model: checked(model).key == first.key,
            fed,
            TRIES,
        )
        last = checked(smallest)
        stem = (
            folder / "failing" / f"{'-'.join(first.key[:2]).translate(str.maketrans('/.', '__'))[:60]}-{seed}"
        )
        stem.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(smallest, stem.with_suffix(".onnx"))
        lines = [f"seed {seed}, {', '.join(graph.patterns)}, {options}", shrinking.described(smallest)]
        lines += [f"{last.kind}: {last.detail}", *(f"stopped: {name}: {why}" for name, why in last.stopped)]
        stem.with_suffix(".txt").write_text("\n".join(lines) + "\n")
        return first

    return found


def dies(code: str) -> bool:
    """Whether a signal ends a process that runs this code, such as onnxruntime at an operator alone."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode < 0


def small_networks(folder: Path, careful: bool) -> Check:
    """Random networks under budgets."""
    return networks.check


def mutated_files(folder: Path, careful: bool) -> Check:
    """Mutated files for the readers, in a folder for each process."""
    own = Path(tempfile.mkdtemp(prefix="mutated-", dir=folder))
    return lambda case: readers.check(case, own)


def backend_tests(folder: Path, careful: bool) -> Check:
    """The backend tests of the onnx wheel; a number beyond the last stands for nothing."""
    cases = [*backend.stored(), *backend.made()]

    def found(case: int) -> Finding:
        return backend.check(cases[case]) if case < len(cases) else Finding("unrunnable")

    return found


@dataclass(frozen=True)
class Source:
    """A kind of cases.

    Attributes:
        checks: makes of the folder of results what checks a case; the second time, behind one that ended
            the process, carefully.
        help: what the cases are.
        most: how many there are; None where there is no end.
    """

    checks: Callable[[Path, bool], Check]
    help: str
    most: Callable[[], int] | None = None

    def made(self, folder: Path, *, careful: bool = False) -> Check:
        """What checks a case, in a process that says nothing of what it runs."""
        ort.set_default_logger_severity(4)
        np.seterr(all="ignore")  # mutated weights are no numbers
        return self.checks(folder, careful)


def _backend_tests() -> int:
    return sum(1 for _ in backend.stored()) + sum(1 for _ in backend.made())


SOURCES: dict[str, Source] = {
    "graphs": Source(random_graphs, "random graphs, exact rewrites"),
    "networks": Source(small_networks, "random small networks under budgets"),
    "files": Source(mutated_files, "mutated files for whatever is read"),
    "backend": Source(backend_tests, "backend tests of the onnx wheel", _backend_tests),
}
