"""The approximate rewrites: one plan over the whole model, fitted, measured and committed."""

from __future__ import annotations

from graphopt import budget, plan
from graphopt.core import (
    Exactness,
    Plan,
)
from graphopt.run import Run


def approximate(run: Run) -> bool:
    """One plan over the model with the approximate rewrites; whether it changed anything."""
    group = run.taking_part(Exactness.APPROXIMATE)
    fixed = [r for r in group if getattr(r, "fixed", False)]
    unknown = ", ".join(run.unknown_dims)
    limits = budget.limits(run.options.budget, run.spent_before, run.spent(), unknown)
    needed = any(limit.needed > 0 for limit in limits)
    if not group or not (fixed or needed):
        return False
    analysis = run.analysis(run.model)
    moments = run.moments(analysis, group)
    if moments is not None:
        analysis = run.analysis(run.model, moments)
    candidates = run.match(analysis, fixed or group)
    chosen = plan.within(candidates, limits) if needed else Plan(tuple(candidates))
    run.journal.decline(chosen)
    changes = run.build(analysis, chosen.chosen, moments)
    changes = run.running(analysis, changes)
    if changes:
        run.commit(changes, run.region_errors(analysis, changes))
    return bool(changes)
