"""Every rewrite of a run, as the rows of a table."""

from __future__ import annotations

from graphopt.report.page.common import Facts
from graphopt.report.results import Applied, Left, Report
from graphopt.types import MAIN_GRAPH, Exactness, Site

MOST_OTHERS = 3
"""Operators of a site that are named besides the first."""


def rewrites(data: Report) -> list[Facts]:
    """Every rewrite that is applied, those that save most first, declined or rejected."""
    applied = sorted(data.applied, key=lambda item: -item.candidate.macs_saved)
    return [
        *(_applied(item) for item in applied),
        *(_left("declined", item) for item in data.declined),
        *(_left("rejected", item) for item in data.rejected),
    ]


def _applied(item: Applied) -> Facts:
    candidate = item.candidate
    before, after = item.macs_before, item.macs_after
    if before is None or after is None:
        before = after = None
    approximate = item.exactness is Exactness.APPROXIMATE
    return {
        **_site("applied", candidate.rewrite, candidate.site),
        "exactness": item.exactness.value,
        "macs_before": before,
        "macs_after": after,
        "saved": None if before is None or after is None else before - after,
        "predicted": candidate.error if approximate else None,
        "measured": item.error_measured,
        "reason": candidate.form if candidate.choice else "",
    }


def _left(status: str, item: Left) -> Facts:
    empty = dict.fromkeys(("macs_before", "macs_after", "saved", "predicted", "measured"))
    return {**_site(status, item.rewrite, item.site), "exactness": "", **empty, "reason": item.reason}


def _site(status: str, rewrite: str, site: Site) -> Facts:
    return {
        "status": status,
        "rewrite": rewrite,
        "site": site.nodes[0],
        "others": site.nodes[1 : MOST_OTHERS + 1],
        "more": max(len(site.nodes) - 1 - MOST_OTHERS, 0),
        "graph": "" if site.graph == MAIN_GRAPH else site.graph,
    }
