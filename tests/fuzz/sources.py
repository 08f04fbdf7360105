"""The kinds of cases by name: each makes of a folder the function from a case's number to its finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import onnx
import onnxruntime as ort

from tests.fuzz import checking, graphs, shrinking
from tests.fuzz.checking import Finding

Source: TypeAlias = Callable[[Path], Callable[[int], Finding]]

KEPT = 5
"""Models of one cause that a process shrinks and keeps."""
TRIES = 150
"""Smaller models that are tried for each."""


def random_graphs(folder: Path) -> Callable[[int], Finding]:
    """Random graphs, exact rewrites; what fails is shrunk and kept."""
    ort.set_default_logger_severity(4)
    seen: Counter[tuple[str, ...]] = Counter()

    def found(seed: int) -> Finding:
        graph = graphs.graph(seed)
        if graph is None:
            return Finding("unrunnable")
        options = checking.options_of(seed)

        def checked(model: onnx.ModelProto) -> Finding:
            return checking.check(model, graphs.feeds(model, seed), **options)

        first = checked(graph.model)
        if not (first.fault or first.stopped) or first.kind == "hang" or seen[first.key] >= KEPT:
            return first
        seen[first.key] += 1
        smallest = shrinking.shrink(
            graph.model,
            lambda model: checked(model).key == first.key,
            lambda model: graphs.feeds(model, seed),
            TRIES,
        )
        last = checked(smallest)
        stem = folder / "failing" / f"{'-'.join(first.key[:2]).replace('/', '_')[:60]}-{seed}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(smallest, stem.with_suffix(".onnx"))
        lines = [f"seed {seed}, {', '.join(graph.patterns)}, {options}", shrinking.described(smallest)]
        lines += [f"{last.kind}: {last.detail}", *(f"stopped: {name}: {why}" for name, why in last.stopped)]
        stem.with_suffix(".txt").write_text("\n".join(lines) + "\n")
        return first

    return found


SOURCES: dict[str, Source] = {"graphs": random_graphs}
