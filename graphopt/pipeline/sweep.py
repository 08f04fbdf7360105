"""sweep() and sensitivity(): what a model gives before a budget is named, from one set of statistics."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt import progress
from graphopt.analysis.linear import Linear
from graphopt.calibration.reading import Given
from graphopt.model.io import Source
from graphopt.pipeline.approximate import reliable
from graphopt.pipeline.networks.network import Network, Networks
from graphopt.pipeline.opening import disclaimed
from graphopt.pipeline.optimize import Run, check_nodes
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.reporting import point
from graphopt.pipeline.workspace import Measures
from graphopt.planning.budget import Budget
from graphopt.planning.damage import Sensitivity
from graphopt.planning.selection import Plan
from graphopt.report.results import Halved, LayerSensitivity, Point, Sensitivities, Sweep
from graphopt.types import Candidate

NOTHING = 1e-3
"""Part of the MACs by which two networks differ that are one for a sweep: derived, what the reports' three
decimals show."""


EVEN_ERROR = 0.01
"""The relative error at which layers are compared with each other. Derived: about the least of the levels
that are probed, so that it is between probes."""
HALF = 0.5
"""Part of a layer's MACs that a form may take which halves it: derived, what the word says."""


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
    run, networks = _rewritten(source, options, calibration)
    workspace, measures, journal = run.workspace, run.measures, run.journal
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


def sensitivity(source: Source, options: Options, calibration: Given) -> Sensitivities:
    """Ranks the layers that could be made cheaper by what that would cost the network's outputs.

    Exact rewrites come first, so that these are the layers that a budget plans with.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.

    Returns:
        The layers, that which costs the most first.

    Raises:
        InputError: of the inputs nothing can be learnt.
        VerificationError: the exactly rewritten model computes something else.
    """
    run, networks = _rewritten(source, options, calibration)
    workspace, journal = run.workspace, run.journal
    analysis, probed = networks.analysis, networks.sensitivities()
    total = analysis.totals.macs
    rows = []
    for name, found in probed.items():
        linear = analysis.linear(analysis.nodes[name])
        assert linear is not None
        ways = [c for c in networks.candidates if c.site.nodes[0] == name and not c.beside]
        share = linear.macs / total if linear.macs is not None and total else None
        damage = found.damage(EVEN_ERROR)
        rows.append(LayerSensitivity(linear, share, found.points, damage, _halved(linear, ways, found)))
    rows.sort(key=lambda row: (-row.cost, row.linear.name))
    return Sensitivities(
        workspace.source,
        workspace.original.totals,
        tuple(rows),
        EVEN_ERROR,
        tuple(filter(None, dict.fromkeys((disclaimed(workspace.source), *journal.notes)))),
        dict(journal.seconds),
        options.described(),
    )


def _halved(linear: Linear, ways: list[Candidate], found: Sensitivity) -> Halved | None:
    """The form that takes at most half of a layer's MACs and harms least; None where there is none."""
    half = [c for c in ways if c.macs_before and (c.macs_after or 0) <= HALF * c.macs_before]
    if not half:
        return None
    best = min(half, key=lambda c: (c.error, c.rewrite, c.form))
    return Halved(best, found.damage(best.error))


def _rewritten(source: Source, options: Options, calibration: Given) -> tuple[Run, Networks]:
    """A run whose exact rewrites are done, and the networks that can be made of what they left."""
    run = Run(source, options, calibration)
    check_nodes(options, run.workspace)
    run.workspace.require_inputs()
    with run.reported():
        run.exact_rounds.rewrite(run.workspace.source.model, final=False)
    group, proposals = run.proposals.approximate, run.proposals
    return run, Networks(run.workspace, group, proposals, run.changes, run.measures, options, run.journal)
