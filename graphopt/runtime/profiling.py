"""The kernels that onnxruntime runs for a model at one thread, and how long each takes.

onnxruntime names a kernel after an operator or after what the operator makes, with words of its own around
it (``fused X``, ``X_nchwc``, ``X/QuickGeluFusion/``). So operators and what they make get numbers for names
first, which can be told in whatever it makes of them.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import progress
from graphopt.errors import InputError
from graphopt.model.traversal import nested
from graphopt.runtime import session
from graphopt.runtime.latency import MOST, WARM_UP

SECONDS = 1.0
"""How long a model is run where a run is short. Derived: `FEWEST` runs of a model of 100 ms, and `MOST` of
one of 10 ms."""
FEWEST = 10
"""Runs that are made however long one takes. Derived: of ten the median stands where up to four were
disturbed."""
_NUMBERED = re.compile(r"<(\d+)>")
_SUFFIX = "_kernel_time"
_AROUND = frozenset({"If", "Loop", "Scan"})
"""Kernels that run others, whose time is within theirs."""


class Kernel(NamedTuple):
    """A kernel of a session.

    Attributes:
        op: what onnxruntime calls it, such as ``FusedConv`` or ``ReorderInput``.
        node: the operator of the model that it is named after; None where it is named after none.
        seconds: what it takes in one run of the model.
    """

    op: str
    node: ir.Node | None
    seconds: float


def kernels(model: ir.Model, feed: session.Feeds) -> list[Kernel]:
    """Profiles a model, fully optimised, at one thread.

    Args:
        model: the model; it is not changed.
        feed: what it is run on, by name.

    Returns:
        Its kernels in the order in which they ran first, each with the median of its seconds a run.

    Raises:
        InputError: onnxruntime can't load or run the model, or its profile can't be read.
    """
    nodes = dict(enumerate(node for graph in nested(model.graph) for node in graph))
    parts = session.structure(model)
    _number(parts.proto.graph, {}, count())
    runs = _profiled(parts, feed)
    found: list[Kernel] = []
    for name, op in dict.fromkeys(key for run in runs for key in run):
        numbered = _NUMBERED.search(name)
        micros = float(np.median([run[name, op] for run in runs]))
        found.append(Kernel(op, None if numbered is None else nodes.get(int(numbered[1])), micros * 1e-6))
    return found


def _number(graph: onnx.GraphProto, names: Mapping[str, str], numbers: Iterator[int]) -> None:
    """Names the operators of a graph, and what they make, by numbers, in the order of `nested`.

    Args:
        graph: the graph; it is changed.
        names: the new names of values that it may read from around it.
        numbers: those that are left.
    """
    known = dict(names)
    for node, number in zip(graph.node, numbers, strict=False):
        node.name = f"<{number}>"
        known |= {name: f"<{number}>.{place}" for place, name in enumerate(node.output) if name}
    for node in graph.node:
        node.output[:] = [known.get(name, name) for name in node.output]
        node.input[:] = [known.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _number(attribute.g, known, numbers)
            for body in attribute.graphs:
                _number(body, known, numbers)
    for value in (*graph.output, *graph.value_info):
        value.name = known.get(value.name, value.name)


def _profiled(parts: session.Structure, feed: session.Feeds) -> list[Counter[tuple[str, str]]]:
    """Microseconds of each kernel in runs of a model, by its name and kind."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        running = session.session(
            parts, optimised=True, threads=session.THREADS, profile=Path(folder) / "profile"
        )
        try:
            for _ in range(WARM_UP):
                start = time.perf_counter()
                session.run(running, feed)
                once = time.perf_counter() - start
            repeat = min(max(int(SECONDS / once), FEWEST), MOST)
            for _ in progress.track(range(repeat), "runs"):
                session.run(running, feed)
        finally:  # an open file may not be removed everywhere
            written = Path(running.end_profiling())
        try:
            runs = _runs(_events(written))[WARM_UP:]
        except (OSError, ValueError) as error:
            raise InputError(f"onnxruntime's profile can't be read: {error}") from error
    if not runs:
        raise InputError("onnxruntime's profile holds no run: the model runs too many operators for it")
    return runs


def _events(written: Path) -> Iterator[dict[str, Any]]:
    """The events of a profile, a list with one on each line: read whole, it may not fit into memory."""
    with written.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            event = line.strip().rstrip(",")
            if event not in ("", "[", "]"):
                yield json.loads(event.removeprefix("[").removesuffix("]"))


def _runs(events: Iterable[dict[str, Any]]) -> list[Counter[tuple[str, str]]]:
    """Microseconds by run, in each by the kernel's name and kind, without those of kernels within it."""
    found: list[Counter[tuple[str, str]]] = []
    run = Counter[tuple[str, str]]()
    ended: list[tuple[int, int]] = []  # start and length of kernels that no other one is known to hold
    for event in events:
        if event.get("name") == "model_run":
            found.append(run)
            run, ended = Counter(), []
        elif event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            op, start, length = event["args"]["op_name"], event["ts"], event["dur"]
            inner = 0
            while op in _AROUND and ended and ended[-1][0] >= start:
                inner += ended.pop()[1]
            ended.append((start, length))
            run[event["name"].removesuffix(_SUFFIX), op] += max(length - inner, 0)
    return found
