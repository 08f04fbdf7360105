"""sweep(): the whole trade-off between cost and quality, from one set of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt import progress
from graphopt.calibration.inputs import Given
from graphopt.model.io import Source
from graphopt.pipeline.approximate import cost_limits, reliable
from graphopt.pipeline.exact_rounds import rewrite_exactly
from graphopt.pipeline.networks import Network, Search
from graphopt.pipeline.options import Options
from graphopt.pipeline.run import Run
from graphopt.planning.budget import Budget
from graphopt.planning.selection import Plan
from graphopt.report.results import Point, Sweep
from graphopt.types import Exactness

NOTHING = 1e-3
"""Part of the MACs by which two networks differ that are one for a sweep."""


def sweep(source: Source, options: Options, calibration: Given, budgets: Sequence[float]) -> Sweep:
    """A network for each MAC budget, measured; exact rewrites first, then one search for all.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.
        budgets: parts of the input's MACs, descending.

    Returns:
        A point for each network, from the most expensive on.

    Raises:
        VerificationError: the exactly rewritten model computes something else.
    """
    run = Run(source, options, calibration)
    rewrite_exactly(run, source.model)
    search = Search(run, run.taking_part(Exactness.APPROXIMATE))
    points = [_point(run, search, search.network(Plan(())))]
    for part in progress.track(budgets, "budgets", describe=lambda b: f"{b:g}"):
        limits = cost_limits(run, Budget(macs=part))
        if all(limit.needed <= 0 for limit in limits):
            continue
        point = _point(run, search, reliable(run, search, limits))
        if point.costs["macs"] < points[-1].costs["macs"] - NOTHING:
            points.append(point)
    last = points[-1].costs.get("macs", 1.0)
    if last > budgets[-1] + NOTHING:
        run.journal.notes.append(f"no network has less than {last:.3f} of the MACs")
    return Sweep(
        source,
        run.original.totals,
        tuple(points),
        tuple(dict.fromkeys(run.journal.notes)),
        dict(run.journal.seconds),
        {**options.described(), "budgets": list(budgets)},
    )


def _point(run: Run, search: Search, network: Network) -> Point:
    """A network with its measured latency."""
    point = search.point(network)
    if run.inputs.problem:
        return point
    timing = run.latency(network.model)
    return replace(point, costs={**point.costs, "latency": timing.ratio})
