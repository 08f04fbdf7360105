"""Expanding rewrites: they make the model dearer and leave its function as it is, on request."""

from __future__ import annotations

from graphopt.calibration import statistics
from graphopt.errors import VerificationError
from graphopt.pipeline.journal import worst
from graphopt.pipeline.run import Run, matches_any
from graphopt.rewrites.base import ExpandingRewrite
from graphopt.types import Array


def expand(run: Run, rewrite: ExpandingRewrite) -> None:
    """Inserts what makes the model dearer and leaves its function as it is, once at each chosen node.

    Raises:
        VerificationError: the model computes something else.
    """
    analysis = run.analysis(run.model, extremes=_extremes(run, rewrite))
    candidates = run.match(analysis, [rewrite])
    chosen = [c for c in candidates if matches_any(c.site.nodes[0], run.options.at)]
    changes = run.build(analysis, chosen)
    condition = rewrite.condition
    if not condition:  # what holds on some inputs only is compared on those, in the whole model
        run.failing(analysis, changes)
        changes = [change for change in changes if run.journal.allows(change[0])]
    if not changes:
        return
    run.commit(changes)
    added = sum((c.after.macs or 0) - (c.before.macs or 0) for c, _ in changes)
    run.journal.notes.append(f"{rewrite.name} raises the MACs by {added:,}, as was asked")
    if condition:
        run.journal.notes.append(f"equal {condition}; on inputs beyond their range it may differ")
    inputs = None
    if condition and run.calibration is not None:
        parts = (run.calibration.fit, run.calibration.held_out)
        inputs = [batch for part in parts for batch in run.calibration.batches(part)]
    found = run.compare(run.source.model, run.model, inputs)
    run.journal.checks += found.checks
    run.journal.notes += found.notes
    if not found:
        raise VerificationError(f"the expanded model differs: {worst(found.checks)}", run.result(None))


def _extremes(run: Run, rewrite: ExpandingRewrite) -> dict[str, tuple[Array, Array]] | None:
    """The range of the outputs that an expanding rewrite asks for."""
    if run.calibration is None:
        return None
    with run.journal.step("calibrate"):
        analysis = run.analysis(run.model)
        chosen = [each for each in rewrite.outputs_needed(analysis) if matches_any(each.name, run.options.at)]
        outer = [linear for linear in chosen if analysis.is_outermost(linear.node)]
        return statistics.extremes(analysis, outer, run.calibration)
