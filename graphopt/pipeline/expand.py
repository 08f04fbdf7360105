"""Expanding rewrites: they make the model dearer and leave its function as it is, on request."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.calibration import statistics
from graphopt.errors import VerificationError
from graphopt.pipeline.changes import Changes, Proposals, matches_any
from graphopt.pipeline.journal import Journal, worst
from graphopt.pipeline.workspace import Workspace
from graphopt.rewrites.base import ExpandingRewrite
from graphopt.types import Array
from graphopt.verification.background import Comparer


def expand(
    rewrite: ExpandingRewrite,
    at: Sequence[str],
    workspace: Workspace,
    proposals: Proposals,
    changes: Changes,
    comparer: Comparer,
    journal: Journal,
) -> None:
    """Inserts what makes the model dearer and leaves its function as it is, once at each chosen node.

    Args:
        rewrite: the expanding rewrite.
        at: patterns of the names of the nodes.
        workspace: the model.
        proposals: what the user did not rule out.
        changes: puts changes in.
        comparer: compares whole models.
        journal: notes what was done.

    Raises:
        VerificationError: the model computes something else.
    """
    analysis = workspace.analysis(workspace.model, extremes=_extremes(rewrite, at, workspace, journal))
    candidates = proposals.match(analysis, [rewrite])
    made = changes.build(analysis, [c for c in candidates if matches_any(c.site.nodes[0], at)])
    condition = rewrite.condition
    if not condition:  # what holds on some inputs only is compared on those, in the whole model
        changes.failing(analysis, made)
        made = [change for change in made if journal.allows(change.candidate)]
    if not made:
        return
    changes.commit(made)
    added = -sum(change.candidate.macs_saved for change in made)
    journal.notes.append(f"{rewrite.name} raises the MACs by {added:,}, as was asked")
    if condition:
        journal.notes.append(f"equal {condition}; on inputs beyond their range it may differ")
    inputs, given = None, workspace.calibration
    if condition and given is not None:
        inputs = [batch for part in (given.fit, given.held_out) for batch in given.batches(part)]
    found = comparer.compare(workspace.source.model, workspace.model, inputs)
    journal.compared(found)
    if not found:
        raise VerificationError(f"the expanded model differs: {worst(found.checks)}")


def _extremes(
    rewrite: ExpandingRewrite, at: Sequence[str], workspace: Workspace, journal: Journal
) -> dict[str, tuple[Array, Array]] | None:
    """The range of the outputs that an expanding rewrite asks for."""
    if workspace.calibration is None:
        return None
    with journal.step("calibrate"):
        analysis = workspace.analysis(workspace.model)
        chosen = [each for each in rewrite.outputs_needed(analysis) if matches_any(each.name, at)]
        outer = [linear for linear in chosen if analysis.is_outermost(linear.node)]
        return statistics.extremes(analysis, outer, workspace.calibration)
