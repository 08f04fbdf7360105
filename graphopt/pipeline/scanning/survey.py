"""What a model's convolutions cost, and what could be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from graphopt import progress
from graphopt.analysis import costs
from graphopt.analysis.linear import FREEZE
from graphopt.analysis.snapshot import Analysis
from graphopt.model.io import Source
from graphopt.pipeline.opening import disclaimed
from graphopt.pipeline.scanning import times
from graphopt.report.results import LayerRow, Left, Opportunity, Scan
from graphopt.rewrites.asking import ask
from graphopt.rewrites.base import ApproximateRewrite, Rewrite
from graphopt.runtime.profiling import Kernel
from graphopt.types import Candidate, Exactness, Rejection


def survey(
    source: Source,
    analysis: Analysis,
    rewrites: Iterable[Rewrite],
    observed: Iterable[str],
    ran: Iterable[Kernel] | None = None,
) -> Scan:
    """The figures of a model from a snapshot of it.

    Args:
        source: the model as loaded.
        analysis: a snapshot of it.
        rewrites: those to look for.
        observed: names of values whose shapes were seen by running.
        ran: the kernels that onnxruntime ran for it, where time was measured.

    Returns:
        Its operators with the totals, those with the most MACs first, or those that were measured longest.
    """
    notes: dict[str, None] = {}  # in order, each once
    found, rejected = _opportunities(analysis, rewrites, notes)
    notes.update(dict.fromkeys(source_notes(source, analysis)))
    notes.update(dict.fromkeys(filter(None, [overridable_note(rejected), disclaimed(source)])))
    taken = times.expected(analysis) if ran is None else times.measured(analysis, ran)
    total, rows = analysis.totals.macs, list[LayerRow]()
    for linear in analysis.linears:
        ways, seconds = tuple(found.get(linear.name, ())), taken.linear.get(linear.node)
        row = LayerRow(linear, analysis.runs(linear.node), None, ways, seconds)
        rows.append(replace(row, share=row.macs / total if total and row.macs is not None else None))
    rows.sort(key=lambda row: -(row.macs or 0))
    if ran is not None:
        rows.sort(key=lambda row: -(row.seconds or 0.0))
    return Scan(
        source,
        analysis.totals,
        tuple(rows),
        analysis.uncounted_ops,
        analysis.sizes.unknown_dims,
        tuple(observed),
        tuple(notes),
        taken.others,
        ran is not None,
    )


def source_notes(source: Source, analysis: Analysis) -> list[str]:
    """On functions that are left, and on linear operators that run nobody knows how often.

    Args:
        source: the model as loaded.
        analysis: a snapshot of it.

    Returns:
        The notes.
    """
    hidden = costs.hidden(source.model)
    notes = [
        f"function {name[1]} is left as it is: {reason}"
        + (f"; {_uncounted(hidden[name])}" if name in hidden else "")
        for name, reason in source.left.items()
    ]
    return [*notes, *(f"counted once: {why}" for why in analysis.uncounted_loops)]


def overridable_note(rejected: Iterable[Rejection | Left]) -> str:
    """On weights that are inputs too, at sites that were rejected for it; "" where there are none."""
    sites = {item.site for item in rejected if FREEZE in item.reason}
    if not sites:
        return ""
    where = "1 site has weights" if len(sites) == 1 else f"{len(sites)} sites have weights"
    return f"{where} that a caller may override: {FREEZE} makes them constants"


def _uncounted(number: int) -> str:
    if number == 1:
        return "its 1 convolution or matrix product is not counted"
    return f"its {number} convolutions and matrix products are not counted"


def _opportunities(
    analysis: Analysis, rewrites: Iterable[Rewrite], notes: dict[str, None]
) -> tuple[dict[str, list[Opportunity]], list[Rejection]]:
    """What each rewrite could do, by name of its anchor, of several ways one; and the sites it rejects."""
    rejected: list[Rejection] = []
    found: dict[str, list[Opportunity]] = {}
    for rewrite in progress.track(list(rewrites), "rewrites", describe=lambda r: r.name):
        ways: dict[str, list[Candidate]] = {}
        proposed = rewrite.priced if isinstance(rewrite, ApproximateRewrite) else rewrite.match
        for match in ask(rewrite.name, proposed, analysis, lambda error: notes.update({error.note: None})):
            if isinstance(match, Candidate):
                ways.setdefault(match.site.nodes[0], []).append(match)
            else:
                rejected.append(match)
        for anchor, candidates in ways.items():
            chosen = _representative(candidates, rewrite.exactness)
            found.setdefault(anchor, []).append(
                Opportunity(rewrite.name, rewrite.exactness, chosen.after.macs)
            )
    return found, rejected


def _representative(candidates: list[Candidate], exactness: Exactness) -> Candidate:
    """Of exact ways the cheapest; of approximate ones the one nearest to half the MACs."""
    if exactness is not Exactness.APPROXIMATE:
        return min(candidates, key=lambda c: c.after.macs or 0)
    return min(candidates, key=lambda c: abs((c.after.macs or 0) - (c.before.macs or 0) / 2))
