"""Each changed region alone: what it was against what takes its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.runtime.memory import chunks
from graphopt.runtime.subgraph import SubgraphPair, assemble, output_names, region
from graphopt.types import Candidate, Change
from graphopt.verification import verdict
from graphopt.verification.difference import Difference
from graphopt.verification.verdict import Verdict

REGION_BOUND = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Relative difference that a changed region may show, by the type of its output. Derived: the rounding of a
sum of n terms grows as eps·√n (Higham 2002, "Accuracy and stability of numerical algorithms"); 84 eps of
float32 are those of 7,000 terms. float16 and bfloat16 are 5 eps, for a few results that are rounded."""
REGION_BYTES = 64 << 20
"""Regions are checked together in one session up to about this many bytes of weights and values; no result
depends on it."""
REGIONS_AT_ONCE = 128
"""And up to so many of them: the time to make a session grows faster than the model; no result depends on
it."""


def verify_regions(
    analysis: Analysis, changes: Sequence[Change], seed: int
) -> list[tuple[Candidate, Verdict]]:
    """Compares each change alone with what it replaces, on seeded random inputs, at ORT_DISABLE_ALL.

    Large maps are compared on a smaller map first, which shows the same; a change that fails there, such as
    one that depends on the size, is judged at the full size.

    Args:
        analysis: a snapshot of the model.
        changes: candidates of it, each with what takes its place.
        seed: of the inputs.

    Returns:
        A verdict for each output of each change.
    """
    regions = [region(analysis, candidate, change, f"r{i}/") for i, (candidate, change) in enumerate(changes)]
    verdicts: list[tuple[Candidate, Verdict]] = []
    small = list(_together(item.shrunk() for item in regions))
    for chunk in progress.track(small, "regions", describe=_first):
        verdicts += _check_chunk(analysis.model, chunk, seed)
    failed = {candidate for candidate, found in verdicts if not found}
    verdicts = [pair for pair in verdicts if pair[0] not in failed]
    for chunk in _together(item for item in regions if item.candidate in failed):
        verdicts += _check_chunk(analysis.model, chunk, seed)
    return verdicts


def _first(chunk: Sequence[SubgraphPair]) -> str:
    return chunk[0].candidate.site.nodes[0]


def _together(regions: Iterable[SubgraphPair]) -> Iterator[list[SubgraphPair]]:
    """Regions that are run together."""
    return chunks(regions, lambda item: item.bytes, REGION_BYTES, REGIONS_AT_ONCE)


def _check_chunk(
    model: ir.Model, chunk: Sequence[SubgraphPair], seed: int
) -> list[tuple[Candidate, Verdict]]:
    """Checks regions in one session; one by one when that session can't be made."""
    try:
        running = session.Interpreter(assemble(model, chunk))
        rng = np.random.default_rng(seed)
        feeds = {n: session.random_array(rng, s, t) for r in chunk for n, (s, t) in r.inputs.items()}
        results = dict(zip(output_names(chunk), running.run(feeds), strict=True))
    except InputError as error:
        if len(chunk) > 1:
            return [found for item in chunk for found in _check_chunk(model, [item], seed)]
        return [
            (chunk[0].candidate, verdict.unrunnable(_scope(chunk[0]), name, error))
            for name, _, _ in chunk[0].outputs
        ]
    verdicts = []
    for item in chunk:
        for name, old, new in item.outputs:
            gap = Difference()
            gap.add(results[old], results[new])
            limit = verdict.bound(results[old], REGION_BOUND)
            verdicts.append((item.candidate, verdict.verdict(_scope(item), name, gap, limit)))
    return verdicts


def _scope(item: SubgraphPair) -> str:
    return f"region {item.candidate.site.nodes[0]}"
