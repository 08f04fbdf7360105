"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

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
    result = run.result(run.quality())
    missed = budget.missed(options.budget, run.spent_before, run.spent())
    if missed:
        raise BudgetError(f"the budget was not reached: {missed}", result)
    return result
