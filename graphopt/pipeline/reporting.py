"""The report of a run: its rows, and the whole from the journal and the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from graphopt.analysis import costs
from graphopt.analysis.snapshot import Analysis
from graphopt.pipeline.changes import Proposals
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.networks.network import Network
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.scanning.survey import source_notes
from graphopt.pipeline.workspace import Workspace
from graphopt.planning.damage import Sensitivity
from graphopt.planning.gates import Judged
from graphopt.planning.selection import MUCH
from graphopt.report.results import Applied, Left, Metric, Point, Report, Result
from graphopt.report.wording import bytes_, numbered
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate, Exactness, Quality


class Figures(NamedTuple):
    """Figures of the model as it is by now, as `Report` has them."""

    budget: tuple[Judged, ...]
    gates: tuple[Judged, ...]
    quality: Quality | None = None
    latency: Timing | None = None
    metric: Metric | None = None


def point(network: Network, costs: Mapping[str, float]) -> Point:
    """The network's place on the curve of the search."""
    fits = network.fits
    chosen = tuple(
        fits[c.site.nodes[0]].candidate if c.site.nodes[0] in fits else c for c in network.plan.chosen
    )
    return Point(costs, network.quality, chosen, network.plan.chosen, network.metric)


def applied(
    network: Network,
    chosen: Sequence[Candidate],
    sensitivities: Mapping[str, Sensitivity],
    *,
    measured: bool,
    sized: bool,
) -> list[Applied]:
    """Candidates of a network.

    Args:
        network: the network.
        chosen: the candidates, as they were fitted.
        sensitivities: of the layers that were probed.
        measured: whether the errors were measured on inputs of the user's.
        sized: whether the MACs hold for the model's real sizes.

    Returns:
        A row for each candidate, with errors, damage and spectra as far as they are known.
    """
    rows = []
    for candidate in chosen:
        name = candidate.site.nodes[0]
        fit, sensitivity = network.fits.get(name), sensitivities.get(name)
        planned = next((c for c in network.plan.chosen if c.site == candidate.site), None)
        rows.append(
            Applied(
                candidate,
                Exactness.APPROXIMATE,
                network.errors.get(name) if measured else None,
                sized,
                None
                if sensitivity is None or planned is None
                else sensitivity.damage(planned.error) / (candidate.error or 1.0),
                {} if fit is None else fit.fitted.spectra,
            )
        )
    return rows


def _widened(before: Analysis, after: Analysis) -> str:
    """That weights which were stored in fewer bytes make the model grow by much; "" where they don't."""
    sizes = before.totals.weight_bytes, after.totals.weight_bytes
    kernels = [linear.node.inputs[1] for linear in before.linears]
    if sizes[1] <= (1 + MUCH) * sizes[0]:
        return ""
    if not any(value is not None and before.constants.is_computed(value) for value in kernels):
        return ""
    return (
        f"the weights grow from {bytes_(sizes[0])} to {bytes_(sizes[1])}: some were stored in fewer bytes "
        "than they are computed in, such as float16 behind a Cast"
    )


def result_of(
    workspace: Workspace, proposals: Proposals, options: Options, journal: Journal, figures: Figures
) -> Result:
    """The model as it is by now, with its report.

    Args:
        workspace: the model as it is by now.
        proposals: what was looked for.
        options: what the user asked for.
        journal: what was done.
        figures: what came out.

    Returns:
        The model and its report.
    """
    before, after = workspace.original, workspace.analysis(workspace.model)
    totals = [each.totals for each in (before, after)]
    if workspace.inputs.assumed:
        totals = [replace(each, macs=None) for each in totals]
    quantised = costs.quantised_note(before.uncounted_ops)
    factored = [item.candidate for item in journal.applied if item.exactness is Exactness.APPROXIMATE]
    left = [
        _widened(before, after),
        workspace.disclaimed,
        *source_notes(workspace.source, before),
        *journal.notes,
    ]
    left += figures.quality.notes if figures.quality is not None and workspace.changed else ()
    notes = [*proposals.notes(before, after), quantised, *left, _grown(before, after, factored)]
    report = Report(
        source=workspace.source,
        before=totals[0],
        after=totals[1],
        changed=workspace.changed,
        applied=tuple(journal.applied),
        declined=_ordered(journal.declined, proposals, figures),
        rejected=_ordered(journal.rejected, proposals, figures),
        checks=tuple(journal.checks),
        unrun=journal.unrun,
        notes=tuple(filter(None, dict.fromkeys(notes))),
        quality=figures.quality,
        latency=figures.latency,
        metric=figures.metric,
        budget=figures.budget,
        gates=figures.gates,
        tuning=journal.tuning,
        curve=tuple(sorted(journal.curve, key=lambda point: -point.costs.get("macs", 0.0))),
        unmeasured=workspace.calibration is None and bool(factored),
        uncounted_ops=before.uncounted_ops,
        unknown_dims=workspace.unknown_dims,
        observed_shapes=tuple(workspace.known),
        unloaded="" if workspace.changed else workspace.unloaded or workspace.failing,
        seconds=dict(journal.seconds),
        options=options.described(),
    )
    model = workspace.model if workspace.changed else workspace.source.whole
    return Result(workspace.plain(model), report, before, after)


def _ordered(left: Sequence[Left], proposals: Proposals, figures: Figures) -> tuple[Left, ...]:
    """What was not done; where a budget is missed, first what could have kept it."""
    if all(figures.budget):
        return tuple(left)
    wanted = {rewrite.name for rewrite in proposals.approximate}
    return tuple(sorted(left, key=lambda each: each.rewrite not in wanted))


def _grown(before: Analysis, after: Analysis, factored: Iterable[Candidate]) -> str:
    """That layers which shared a kernel have factors of their own, which take more; "" where none do."""
    old, new = before.totals.weight_bytes, after.totals.weight_bytes
    sites = {name for candidate in factored for name in candidate.site.nodes}
    kernels = (each.node.inputs[1] for each in before.linears if each.name in sites)
    shared = sum(value is not None and len(before.consumers(value)) > 1 for value in kernels)
    if new <= old or not shared:
        return ""
    layers = numbered(shared, "layer")
    return f"the weights grow from {bytes_(old)} to {bytes_(new)}: a shared kernel became factors in {layers}"
