"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

from dataclasses import replace

from graphopt import budget
from graphopt.approximate import approximate
from graphopt.calibrate import Given
from graphopt.core import Exactness
from graphopt.errors import BudgetError
from graphopt.exact import rewrite_exactly
from graphopt.expand import expand
from graphopt.model import Source
from graphopt.options import Options
from graphopt.result import Result
from graphopt.run import Run


def optimize(source: Source, options: Options, calibration: Given | None = None) -> Result:
    """Rewrites a model, verifies it, and reports.

    Exact rounds first; then, under a budget, the approximate rewrites once, in one plan over the model; then
    exact rounds again. Nothing unverified is returned.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.

    Raises:
        VerificationError: the rewritten model computes something else.
        BudgetError: the budget was not reached.
    """
    run = Run(source, options, calibration)
    for rewrite in run.taking_part(Exactness.EXPANDING):
        expand(run, rewrite)
        return run.result(run.quality())  # it runs alone
    rewrite_exactly(run, source.model)
    if approximate(run):
        rewrite_exactly(run, run.model)
    return _judged(run)


def _judged(run: Run) -> Result:
    """The result with its figures, if it keeps the budget.

    Raises:
        BudgetError: it does not.
    """
    asked, quality, metric = run.options.budget, run.quality(), run.metric_of(run.model)
    fitted = any(item.exactness is Exactness.APPROXIMATE for item in run.journal.applied)
    timed = asked.latency is not None or fitted
    timing = run.latency(run.model) if timed and not run.inputs.problem else None
    before, after = run.spent_before, run.spent()
    if timing is not None:
        before = replace(before, seconds=1.0)
        after = replace(after, seconds=timing.ratio)
    result = run.result(quality, timing, metric)
    missed = budget.missed(asked, before, after, quality, metric)
    if missed:
        raise BudgetError(f"the budget was not reached: {missed}", result)
    return result
