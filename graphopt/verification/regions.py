"""Each changed region alone: what it was against what takes its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from graphopt import progress
from graphopt.analysis.channels import Channels
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.test_inputs.other_inputs import scaled
from graphopt.errors import InputError
from graphopt.numerics.channel_gap import DRAWS, ChannelGap, rounded
from graphopt.runtime import session
from graphopt.runtime.exposure import exposed
from graphopt.runtime.limits.memory import chunks
from graphopt.runtime.session import Feeds
from graphopt.runtime.subgraph import SubgraphPair, assemble, output_names, region
from graphopt.types import Candidate, Change
from graphopt.verification import verdict
from graphopt.verification.difference import Difference, Output, finite
from graphopt.verification.verdict import Verdict

Gaps: TypeAlias = "defaultdict[str, Difference]"
"""How far apart the two forms of a region are, by the name that an output has in the old one."""

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

BEYOND = (100.0, -100.0)
"""Factors of the inputs on which a region is looked at that is judged by the values of the model. Derived:
what an operator guarantees, such as the range of a Relu, holds for any; two decades leave behind what noise
reaches, on both sides of 0."""


def verify_regions(
    analysis: Analysis, changes: Sequence[Change], seed: int, feeds: Sequence[Feeds] = ()
) -> list[tuple[Candidate, Verdict]]:
    """Compares each change alone with what it replaces, on seeded random inputs, at ORT_DISABLE_ALL.

    Large maps are compared on a smaller map first, which shows the same; a change that fails there, such as
    one that depends on the size, is judged at the full size. One that fails there too may rest on what the
    rest of the model makes of its values, such as an equality of two inputs: it is judged on what the model
    computes.

    Args:
        analysis: a snapshot of the model.
        changes: candidates of it, each with what takes its place.
        seed: of the inputs.
        feeds: inputs of the model, on which it runs; without them nothing is judged by what it computes.

    Returns:
        A verdict for each output of each change.
    """
    regions = [region(analysis, candidate, change, f"r{i}/") for i, (candidate, change) in enumerate(changes)]
    verdicts: list[tuple[Candidate, Verdict]] = []
    small = list(_together(item.shrunk() for item in regions))
    for chunk in progress.track(small, "regions", describe=_first):
        verdicts += _check_chunk(analysis, chunk, seed)
    failed = {candidate for candidate, found in verdicts if not found}
    verdicts = [pair for pair in verdicts if pair[0] not in failed]
    for chunk in _together(item for item in regions if item.candidate in failed):
        verdicts += _check_chunk(analysis, chunk, seed)
    failed = {candidate for candidate, found in verdicts if not found}
    passed = _on_values(analysis, [item for item in regions if item.candidate in failed], feeds)
    return [pair for pair in verdicts if pair[0] not in passed] + [
        (candidate, found) for candidate in passed for found in passed[candidate]
    ]


def _on_values(
    analysis: Analysis, regions: Sequence[SubgraphPair], feeds: Sequence[Feeds]
) -> dict[Candidate, list[Verdict]]:
    """The regions that are equal on all that the model computes at their borders, with the verdicts.

    The values have to tell something on the inputs as given; far beyond those, as far as the model runs there
    and makes numbers, they have to be equal too.
    """
    left = [item for item in regions if analysis.is_outermost(analysis.nodes[item.candidate.site.nodes[0]])]
    passed: dict[Candidate, list[Verdict]] = {}
    if not left or not feeds:
        return passed
    parts = exposed(session.structure(analysis.model), _borders(left, feeds[0]))
    names = [output.name for output in parts.proto.graph.output]
    gaps: Gaps = defaultdict(Difference)
    try:
        running = session.Interpreter(parts)
        for feed in feeds:
            values = {**feed, **dict(zip(names, running.run(feed), strict=True))}
            passed = _passed(analysis, left, values, gaps, telling=True)
            left = [item for item in left if item.candidate in passed]
    except InputError:
        return {}
    held: dict[Candidate, list[Verdict]] = {}
    for factor in BEYOND:
        feed = scaled(feeds[0], factor)
        with suppress(InputError):  # the model need not run so far out, nor make numbers everywhere
            values = {**feed, **dict(zip(names, running.run(feed), strict=True))}
            seen = [item for item in left if all(finite(values[name]) for name in item.sources.values())]
            equal = _passed(analysis, seen, values, gaps, telling=False)
            left = [item for item in left if item.candidate in equal or item not in seen]
            held |= equal
    return {item.candidate: held.get(item.candidate, passed[item.candidate]) for item in left}


def _borders(regions: Iterable[SubgraphPair], feed: Feeds) -> list[str]:
    """The values of the model that regions read, and that are not fed."""
    return sorted({source for item in regions for source in item.sources.values()} - set(feed))


def _passed(
    analysis: Analysis, regions: Sequence[SubgraphPair], values: Feeds, gaps: Gaps, *, telling: bool
) -> dict[Candidate, list[Verdict]]:
    """The regions that are equal on some values, with verdicts on all that was seen of them by now."""
    found: dict[Candidate, list[Verdict]] = {}
    for chunk in _together(item.at(values) for item in regions):
        for candidate, each in _check_chunk(analysis, chunk, 0, gaps, telling=telling):
            found.setdefault(candidate, []).append(each)
    return {candidate: verdicts for candidate, verdicts in found.items() if all(verdicts)}


def _first(chunk: Sequence[SubgraphPair]) -> str:
    return chunk[0].candidate.site.nodes[0]


def _together(regions: Iterable[SubgraphPair]) -> Iterator[list[SubgraphPair]]:
    """Regions that are run together."""
    return chunks(regions, lambda item: item.bytes, REGION_BYTES, REGIONS_AT_ONCE)


def _check_chunk(
    analysis: Analysis,
    chunk: Sequence[SubgraphPair],
    seed: int,
    gaps: Gaps | None = None,
    *,
    telling: bool = False,
) -> list[tuple[Candidate, Verdict]]:
    """Checks regions in one session; one by one when that session can't be made.

    With ``telling``, an output that is the same everywhere proves nothing and does not pass. The verdicts are
    on what ``gaps`` hold too, which takes up what is found.
    """
    gaps = defaultdict(Difference) if gaps is None else gaps
    try:
        running = session.Interpreter(assemble(analysis.model, chunk, open_sizes=True))
        rng = np.random.default_rng(seed)
        feeds = {name: array for item in chunk for name, array in item.feeds(rng).items()}
        results = dict(zip(output_names(chunk), running.run(feeds), strict=True))
    except InputError as error:
        if len(chunk) > 1:
            return [
                found
                for item in chunk
                for found in _check_chunk(analysis, [item], seed, gaps, telling=telling)
            ]
        return [
            (chunk[0].candidate, verdict.unrunnable(_scope(chunk[0]), name, error))
            for name, _, _ in chunk[0].outputs
        ]
    verdicts = []
    for item in chunk:
        errors = _by_channel(analysis, item, feeds, results)
        for name, old, new in item.outputs:
            gap = gaps[old]
            gap.add(results[old], results[new])
            limit = verdict.bound(results[old], REGION_BOUND)
            found = verdict.verdict(_scope(item), name, gap, limit)
            if found and errors.get(old, 0.0) > limit:
                note = f"a channel differs by {errors[old]:.1e} of its own scale, allowed {limit:.1e}"
                found = replace(found, passed=False, note=note)
            if telling and not _tells(results[old]):
                note = "nothing can be told by values that are the same everywhere"
                found = replace(found, passed=False, note=note, informative=False)
            verdicts.append((item.candidate, found))
    return verdicts


def _by_channel(
    analysis: Analysis, item: SubgraphPair, feeds: Feeds, results: Mapping[str, Output]
) -> dict[str, float]:
    """The largest difference of a channel over its own scale, by the outputs in which it exceeds the bound.

    Args:
        analysis: a snapshot of the model that the region is of.
        item: the region.
        feeds: what it was run on.
        results: what it made.
    """
    found: dict[str, tuple[ChannelGap, float]] = {}
    axes = analysis.cached(_axes)
    for name, old, new in item.outputs:
        reference, other = results[old], results[new]
        if isinstance(reference, list) or reference.dtype.kind != "f" or reference.ndim < 2:
            continue
        gap, limit = ChannelGap(axes.get(name, 1)), verdict.bound(reference, REGION_BOUND)
        gap.add(reference, other)
        if gap.error > limit:
            found[old] = gap, limit
    if not found:
        return {}
    rng, given = np.random.default_rng(0), {name: feeds[name] for name in item.inputs}
    rounding = max(float(np.finfo(results[old].dtype).eps) for old in found)
    with suppress(InputError):  # then each is judged as it was seen
        for _ in range(DRAWS):
            moved = item.forms()[0].rounded(rounding, rng)
            parts = assemble(analysis.model, [moved], open_sizes=True)
            made = session.Interpreter(parts).run({n: rounded(a, rounding, rng) for n, a in given.items()})
            for name, array in zip(output_names([moved]), made, strict=True):
                if name in found:
                    found[name][0].move(results[name], array, rounding)
    return {name: gap.error for name, (gap, limit) in found.items() if gap.error > limit}


def _axes(analysis: Analysis) -> dict[str, int]:
    """The axis that holds the channels of what each operator makes, by name, where there is one."""
    channels = Channels(analysis.model, analysis.shape, analysis.constant)
    values = [value for node in analysis.nodes.values() for value in node.outputs]
    axes = {value.name or "": channels.axis(value) for value in values}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _tells(output: Output) -> bool:
    """Whether an output is other numbers than one everywhere, so that equal ones prove something."""
    if isinstance(output, list) or output.dtype.kind != "f" or output.size < 2:
        return True
    return bool(np.ptp(output.astype(np.float64)) > 0)


def _scope(item: SubgraphPair) -> str:
    return f"region {item.candidate.site.nodes[0]}"
