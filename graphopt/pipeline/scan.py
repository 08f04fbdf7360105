"""What a model's convolutions cost, and what could be done about it."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt import progress
from graphopt.analysis.snapshot import Analysis
from graphopt.model.io import Source
from graphopt.report.results import LayerRow, Opportunity, Scan
from graphopt.rewrites.asking import ask
from graphopt.rewrites.base import ApproximateRewrite, Rewrite
from graphopt.types import Candidate, Exactness


def survey(source: Source, analysis: Analysis, rewrites: Iterable[Rewrite], observed: Iterable[str]) -> Scan:
    """The figures of a model from a snapshot of it.

    Args:
        source: the model as loaded.
        analysis: a snapshot of it.
        rewrites: those to look for.
        observed: names of values whose shapes were seen by running.

    Returns:
        Its operators, the most expensive first, with the totals.
    """
    notes: dict[str, None] = {}  # in order, each once
    found = _opportunities(analysis, rewrites, notes)
    total = analysis.totals.macs
    known = [linear.macs for linear in analysis.linears if linear.macs is not None]
    whole = total if total is not None else sum(known)
    rows = [
        LayerRow(
            linear,
            linear.macs / whole if total and linear.macs is not None else None,
            tuple(found.get(linear.name, ())),
        )
        for linear in analysis.linears
    ]
    rows.sort(key=lambda row: -(row.linear.macs or 0))
    return Scan(
        source,
        analysis.totals,
        tuple(rows),
        analysis.uncounted_ops,
        analysis.sizes.unknown_dims,
        tuple(observed),
        tuple(notes),
    )


def _opportunities(
    analysis: Analysis, rewrites: Iterable[Rewrite], notes: dict[str, None]
) -> dict[str, list[Opportunity]]:
    """What each rewrite could do, by name of its anchor; of several ways the representative one."""
    found: dict[str, list[Opportunity]] = {}
    for rewrite in progress.track(list(rewrites), "rewrites", describe=lambda r: r.name):
        ways: dict[str, list[Candidate]] = {}
        proposed = rewrite.priced if isinstance(rewrite, ApproximateRewrite) else rewrite.match
        for match in ask(rewrite.name, proposed, analysis, lambda error: notes.update({error.note: None})):
            if isinstance(match, Candidate):
                ways.setdefault(match.site.nodes[0], []).append(match)
        for anchor, candidates in ways.items():
            chosen = _representative(candidates, rewrite.exactness)
            found.setdefault(anchor, []).append(
                Opportunity(rewrite.name, rewrite.exactness, chosen.after.macs)
            )
    return found


def _representative(candidates: list[Candidate], exactness: Exactness) -> Candidate:
    """Of exact ways the cheapest; of approximate ones the one nearest to half the MACs."""
    if exactness is not Exactness.APPROXIMATE:
        return min(candidates, key=lambda c: c.after.macs or 0)
    return min(candidates, key=lambda c: abs((c.after.macs or 0) - (c.before.macs or 0) / 2))
