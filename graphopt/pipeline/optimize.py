"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

from dataclasses import replace

from graphopt.calibration.inputs import Given
from graphopt.errors import BudgetError, InputError
from graphopt.model.io import Source
from graphopt.pipeline.approximate import approximate
from graphopt.pipeline.exact_rounds import rewrite_exactly
from graphopt.pipeline.expand import expand
from graphopt.pipeline.options import Options
from graphopt.pipeline.run import Run
from graphopt.planning import gates, spending
from graphopt.report.results import Result
from graphopt.types import Exactness


def optimize(source: Source, options: Options, calibration: Given | None = None) -> Result:
    """Rewrites a model, verifies it, and reports.

    Exact rounds first; then, under a budget, the approximate rewrites once, in one plan over the model; then
    exact rounds again. Nothing unverified is returned.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.

    Returns:
        The model and its report.

    Raises:
        VerificationError: the rewritten model computes something else.
        BudgetError: the budget was not reached, or the result fails a gate.
        InputError: a gate has no figure for this model.
    """
    run = Run(source, options, calibration)
    _check_gates(run)
    for rewrite in run.taking_part(Exactness.EXPANDING):
        expand(run, rewrite)
        return _judged(run)  # it runs alone
    rewrite_exactly(run, source.model)
    if approximate(run):
        rewrite_exactly(run, run.model)
    return _judged(run)


def _check_gates(run: Run) -> None:
    """Refuses gates for which the model can't give a figure, before any work is done.

    Raises:
        InputError: a size is unknown, or onnxruntime can't run the model.
    """
    for gate in run.options.require:
        if gate.key == "macs" and (run.inputs.assumed or run.original.totals.macs is None):
            unknown = ", ".join(run.unknown_dims) or "a size"
            raise InputError(f"--require {gate}: {unknown} is unknown: give --shape or inputs")
        if gate.key in ("latency", *gates.MEASURED) and run.inputs.problem:
            raise InputError(f"--require {gate}: the model can't be run: {run.inputs.problem}")


def _judged(run: Run) -> Result:
    """The result with its figures, if it keeps the budget and passes the gates.

    Raises:
        BudgetError: it does not.
    """
    run.record()  # before anything is measured: its bytes count too
    asked, quality, metric = run.options.budget, run.quality(), run.metric_of(run.model)
    required = run.options.require
    fitted = any(item.exactness is Exactness.APPROXIMATE for item in run.journal.applied)
    changed = run.model is not run.source.model
    timed = asked.latency is not None or fitted
    timed |= changed and any(gate.key == "latency" for gate in required)
    timing = run.latency(run.model) if timed and not run.inputs.problem else None
    before, after = run.spent_before, run.spent()
    if timing is not None:
        before = replace(before, seconds=1.0)
        after = replace(after, seconds=timing.ratio)
    figures = spending.figures(before, after, quality, metric)
    if not changed:
        figures.setdefault("latency", 1.0)  # the same file
    kept = gates.judge(gates.of_budget(asked), figures)
    if any(gate.key == "bytes" for gate in required):
        figures["bytes"] = run.written_bytes() / run.source.bytes
    passed = gates.judge(required, figures)
    result = run.result(quality, timing, metric, budget=kept, gates=passed)
    missed = spending.missed(asked, before, after, quality, metric)
    reasons = [f"the budget was not reached: {missed}"] if missed else []
    if not all(passed):
        reasons.append(f"the result fails what is required: {gates.failed(passed)}")
    if reasons:
        raise BudgetError("; ".join(reasons), result)
    return result
