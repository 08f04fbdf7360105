"""sweep(): the whole trade-off between cost and quality, from one set of statistics."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt import progress
from graphopt.calibration.reading import Given
from graphopt.model.io import Source
from graphopt.pipeline.approximate import reliable
from graphopt.pipeline.networks.network import Network, Networks
from graphopt.pipeline.opening import disclaimed
from graphopt.pipeline.optimize import Run
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.reporting import point
from graphopt.pipeline.workspace import Measures
from graphopt.planning.budget import Budget
from graphopt.planning.selection import Plan
from graphopt.report.results import Point, Sweep

NOTHING = 1e-3
"""Part of the MACs by which two networks differ that are one for a sweep: derived, what the reports' three
decimals show."""


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
    run.workspace.require_inputs()
    with run.reported():
        run.exact_rounds.rewrite(run.workspace.source.model, final=False)
    workspace, proposals, measures, journal = run.workspace, run.proposals, run.measures, run.journal
    group = proposals.approximate
    networks = Networks(workspace, group, proposals, run.changes, measures, options, journal)
    timed = not workspace.inputs.problem
    points = [_point(networks.network(Plan(())), measures, timed=timed)]
    journal.notes += () if points[0].quality is None else points[0].quality.notes
    for part in progress.track(budgets, "budgets", describe=lambda b: f"{b:g}"):
        limits = measures.limits(Budget(macs=part))
        if all(limit.needed <= 0 for limit in limits):
            continue
        found = _point(reliable(networks, measures, journal, limits), measures, timed=timed)
        if found.costs["macs"] < points[-1].costs["macs"] - NOTHING:
            points.append(found)
    last = points[-1].costs.get("macs", 1.0)
    if last > budgets[-1] + NOTHING:
        journal.notes.append(f"no network has less than {last:.3f} of the MACs")
    return Sweep(
        workspace.source,
        workspace.original.totals,
        tuple(points),
        tuple(filter(None, dict.fromkeys((disclaimed(workspace.source), *journal.notes)))),
        dict(journal.seconds),
        {**options.described(), "budgets": list(budgets)},
    )


def _point(network: Network, measures: Measures, *, timed: bool) -> Point:
    """A network with its costs and, where it can be run, its measured latency."""
    costs = measures.costs(network.model)
    if timed:
        costs["latency"] = measures.latency(network.model).ratio
    return point(network, costs)
