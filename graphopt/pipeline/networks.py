"""Networks with approximate rewrites: what they are made of, which one a budget asks for, how good it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.channels import Channels, Signal
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.calibration import statistics as calibration_statistics
from graphopt.calibration import synthetic
from graphopt.calibration.inputs import FEWEST_TO_FIT, Calibration
from graphopt.calibration.samples import Samples
from graphopt.compression import curvature, layer_errors, sequential_fit
from graphopt.compression import sensitivity as compression_sensitivity
from graphopt.compression.layer_errors import Layer
from graphopt.compression.sequential_fit import Refitted
from graphopt.errors import InputError, SiteError, blaming
from graphopt.model import edit
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.changes import Changes, Proposals
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.workspace import Measures, Workspace
from graphopt.planning import selection
from graphopt.planning.damage import Sensitivity, unprobed
from graphopt.planning.selection import Limit, Plan
from graphopt.rewrites.base import ApproximateRewrite, ExactRewrite
from graphopt.rewrites.registry import finishing
from graphopt.runtime import session
from graphopt.runtime.operator_times import Stopwatch, cache_path
from graphopt.types import Candidate, Change, Fitted, Quality, Replacement, Site
from graphopt.verification import quality
from graphopt.verification.heads import Heads, is_tensor
from graphopt.verification.metrics.task import TaskMetric

Made = TypeVar("Made")

PLANNED_ON = 384
"""Inputs whose statistics the plan is made from, at most; the chosen layers are then fitted to all. Measured
by benchmarks.thresholds: with 12, 24, 48 and all of 72 a network kept 33.1, 34.3, 33.3 and 33.9 dB, four
seeds alone give 33.5 to 34.5."""
MOST_LOST = 0.5
"""Part of what counts in a layer's outputs that may be lost, unless the user forces it. Derived: with more,
what is left says less of them than what was lost."""
PROBED_ON = 0.25
"""Part of the inputs to fit on that are probed on alone: on what it was fitted to, a fit looks too good.
Measured by benchmarks.thresholds: with 0, 0.1, 0.25 and 0.5 a network of 96 inputs to fit on kept 34.2, 33.8,
33.9 and 34.1 dB, which seeds alone do."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network that a plan makes.

    Attributes:
        plan: the plan.
        fits: the fitted layers by name of the operator; empty without calibration.
        changes: what takes the operators' places.
        model: the model with all changes.
        errors: measured error of each layer on held-out inputs, synthetic ones where none were given, by
            name.
        quality: of the whole, on held-out inputs; None without calibration.
        metric: what the user's own measure says; None without one.
    """

    plan: Plan
    fits: dict[str, Refitted]
    changes: tuple[Change, ...]
    model: ir.Model
    errors: dict[str, float]
    quality: Quality | None
    metric: float | None = None


class FitData:
    """The inputs that approximate rewrites are fitted to, and what the layers of the model read of them.

    Attributes:
        inputs: the user's calibration inputs, else synthetic ones; None where the model can't be run.
        statistics: of what the layers read, by name of the operator; None without inputs.
        analysis: a snapshot of the model with them.
    """

    def __init__(
        self, workspace: Workspace, group: Sequence[ApproximateRewrite], options: Options, journal: Journal
    ) -> None:
        self._workspace, self._options, self._journal = workspace, options, journal
        self.statistics: dict[str, Statistics] | None = None
        self.analysis: Analysis = workspace.analysis(workspace.model)
        self.inputs = workspace.calibration or self._synthetic()
        if self.inputs is not None:
            self.statistics = self._gathered(self.inputs, group)
            self.analysis = workspace.analysis(workspace.model, self.statistics)

    def probed(self, layers: int) -> Samples:
        """The inputs that so many layers are probed on."""
        assert self.inputs is not None
        start = _apart(self.inputs)
        if self.inputs.fitted - start < max(FEWEST_TO_FIT, self.inputs.batch if self.inputs.fixed else 1):
            start = 0  # so few that none is left apart: they serve for both
        macs, left = self.analysis.totals.macs, self.inputs.fitted - start
        return _some(self.inputs, start, compression_sensitivity.inputs_to_probe(macs, left, layers))

    @property
    def watched(self) -> list[Signal]:
        """The values that stand for the outputs that count; none where none of them holds numbers."""
        analysis = self.analysis
        channels = Channels(analysis.model, analysis.shape, analysis.constant)
        signals = (signal for value in self._measured for signal in channels.signals(value))
        return list(dict.fromkeys(signals))

    @property
    def decided(self) -> list[str]:
        """What the model decides on the way to those, which a probe takes from the original."""
        if not any(map(self._heads.behind, self._measured)):
            return []
        made = (value for node in self._heads.decisions for value in node.outputs)
        return [value.name or "" for value in made if value.uses() and is_tensor(value)]

    def unseen(self, candidate: Candidate) -> str:
        """Why an error at a candidate would not be measured, though an output that counts depends on it."""
        node = self.analysis.nodes[candidate.site.nodes[0]]
        if node in self._seen:
            return ""
        name = next((name for name, nodes in self._leading.items() if node in nodes), None)
        return "" if name is None else f"an error in it is not measured, as output {name!r} is not"

    def idle(self, candidate: Candidate) -> str:
        """Why nothing would be measured of a candidate in a body, since no input is known to run it."""
        node, inputs = self.analysis.nodes[candidate.site.nodes[0]], self.inputs
        if inputs is None or node.graph in self._run:
            return ""
        return (
            "an error in it is not measured, as no held-out input is known to run the branch or loop that it "
            "stands in"
        )

    @cached_property
    def _run(self) -> set[ir.Graph]:
        """The graphs that are run on the inputs that quality is measured on."""
        assert self.inputs is not None
        with self._journal.step("calibrate"):
            return calibration_statistics.graphs_run(self.analysis, self.inputs, self.inputs.held_out)

    @cached_property
    def _seen(self) -> set[ir.Node]:
        return self._heads.leading_to(self._measured)

    @cached_property
    def _leading(self) -> dict[str, set[ir.Node]]:
        return {output.name or "": self._heads.leading_to([output]) for output in self._heads.outputs}

    @cached_property
    def _measured(self) -> list[ir.Value]:
        """What stands for the outputs that count, as far as it holds numbers."""
        dtype, inputs = self.analysis.sizes.dtype, self.inputs
        values = [value for output in self._heads.outputs for value in self._heads.measured(output, dtype)]
        if inputs is None:
            return []
        parts = session.structure(self.analysis.model)
        usable = quality.with_numbers(parts, filter(is_tensor, values), inputs, inputs.held_out)
        return [value for value in values if value in usable]

    @cached_property
    def _heads(self) -> Heads:
        kept, outputs = self._options.outputs, self.analysis.model.graph.outputs
        return Heads(self.analysis.model, [v for v in outputs if not kept or v.name in kept])

    def _synthetic(self) -> Calibration | None:
        """Inputs to fit on where there are none; what they say of the error is no measurement."""
        workspace = self._workspace
        if workspace.inputs.problem:
            return None
        with self._journal.step("calibrate"):
            macs = workspace.original.totals.macs
            return synthetic.inputs(workspace.source.model, workspace.inputs.sizes, macs, self._options.seed)

    def _gathered(
        self, calibration: Calibration, group: Sequence[ApproximateRewrite]
    ) -> dict[str, Statistics]:
        """Statistics of what the operators read that the rewrites ask about."""
        with self._journal.step("calibrate"):
            needed = {
                linear.name: linear
                for rewrite in group
                for linear in rewrite.inputs_needed(self.analysis)
                if self.analysis.is_outermost(linear.node)
            }
            some = _some(calibration, 0, min(PLANNED_ON, _apart(calibration)))
            linears = list(needed.values())
            found = calibration_statistics.statistics(
                self.analysis, linears, calibration, some, self._options.seed
            )
        counts = self._weightings(linears, calibration, some)
        return {name: replace(each, weighting=counts.get(name, ())) for name, each in found.items()}

    def _weightings(
        self, linears: Sequence[Linear], calibration: Calibration, samples: Samples
    ) -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
        """What errors in the outputs of operators count, where that is known.

        Synthetic inputs don't tell: on ResNet-20 more was lost with it at 0.6 of the MACs.
        """
        if self._workspace.calibration is None or not self.watched:
            return {}
        try:
            with self._journal.step("differentiate"):
                return curvature.weightings(
                    self.analysis, linears, calibration, samples, self.watched, seed=self._options.seed
                )
        except InputError as error:
            self._journal.notes.append(f"errors in all outputs of a layer count the same: {error}")
            return {}


@dataclass
class Forms:
    """What the approximate rewrites make of candidates that were found on a snapshot."""

    analysis: Analysis
    rewrites: Mapping[str, ApproximateRewrite]

    def fit(self, candidate: Candidate, statistics: Statistics, refine: int) -> Fitted:
        """A candidate fitted to the statistics of what its operator reads.

        Args:
            candidate: one of these rewrites.
            statistics: of what its operator reads.
            refine: rounds of alternation.

        Returns:
            What takes the operator's place, and its error under those statistics.
        """
        rewrite = self.rewrites[candidate.rewrite]
        with blaming(rewrite.name, f"at {candidate.site.nodes[0]}", candidate):
            named = {candidate.site.nodes[0]: statistics}
            return rewrite.fit(self.analysis, candidate, named, refine=refine)

    def draft(self, candidate: Candidate) -> Replacement | None:
        """The operators of a candidate, whatever their weights; None where that can't be told."""
        with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}", candidate):
            return self.rewrites[candidate.rewrite].draft(anchor(self.analysis, candidate), candidate)


@dataclass
class Damage:
    """What candidates cost the network's quality."""

    data: FitData
    candidates: Sequence[Candidate]
    forms: Forms
    memory: int
    journal: Journal

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """How much an error in each layer harms the output, by name; empty without inputs.

        Raises:
            SiteError: a rewrite can't fit one of the candidates; it is banned.
        """
        data = self.data
        if data.inputs is None or data.statistics is None or not data.watched:
            return {}
        layers: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            name = candidate.site.nodes[0]
            if name in data.statistics and self.journal.allows(candidate):
                layers.setdefault(name, []).append(candidate)
        with self.journal.step("probe"):
            return compression_sensitivity.sensitivities(
                data.analysis,
                layers,
                data.statistics,
                self.forms.fit,
                data.inputs,
                data.probed(len(layers)),
                data.watched,
                data.decided,
                self.memory,
            )

    def of(self, candidate: Candidate) -> float:
        """What a candidate costs the network's quality."""
        found = self.sensitivities.get(candidate.site.nodes[0])
        return unprobed(candidate.error) if found is None else found.damage(candidate.error)


@dataclass
class Clock:
    """What candidates that were found on a snapshot save of the input's time, as measured."""

    analysis: Analysis
    forms: Forms
    source: ir.Model
    measures: Measures
    journal: Journal

    @cached_property
    def _saved(self) -> dict[Candidate, float]:
        return {}

    def saved(self, candidate: Candidate) -> float:
        """What a candidate alone saves of the input's time at one thread, as a part of it; measured once.

        Of one over several operators it is what the static time model expects.
        """
        if candidate.beside:
            return (candidate.before.seconds - candidate.after.seconds) / self._expected_seconds
        if candidate not in self._saved:
            change = self.forms.draft(candidate)
            if change is None:
                self._saved[candidate] = 0.0
            else:
                with self.journal.step("time"):
                    before, after = self._stopwatch.seconds(self.analysis, candidate, change)
                    self._saved[candidate] = candidate.runs * (before - after) / self._reference_seconds
        return self._saved[candidate]

    def in_blocks(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those whose ranks are whole blocks of channels; of a site that has none, all."""
        block = self._stopwatch.block()
        if block > 1:
            note = f"ranks are multiples of {block}: by measurement kernels compute so many channels at once"
            self.journal.notes.append(note)

        def whole(candidate: Candidate) -> bool:
            group = anchor(self.analysis, candidate).group
            ranks = self.forms.rewrites[candidate.rewrite].ranks(candidate.choice)
            return all(group * rank % block == 0 for rank in ranks)

        sites = {candidate.site for candidate in candidates if whole(candidate)}
        return [c for c in candidates if c.site not in sites or whole(c)]

    def save(self) -> None:
        """Remembers what was timed for other runs."""
        self._stopwatch.save()

    @cached_property
    def _expected_seconds(self) -> float:
        """Seconds that the static time model expects the model to take."""
        return self.analysis.cost(list(self.analysis.model.graph)).seconds or math.inf

    @cached_property
    def _reference_seconds(self) -> float:
        """Seconds that the input takes, timed as the candidates are."""
        return self._stopwatch.whole(self.source, self.measures.timed_feed)

    @cached_property
    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(cache_path())


class Networks:
    """The networks that are made of the model as it is now, and what they share.

    Attributes:
        model: as it is now.
        analysis: a snapshot of it, with what the layers read.
        candidates: what the rewrites find in it.
        damage: what they cost the network's quality.
        clock: what they save of its time.
        most_lost: part of its variance that a layer may lose.
    """

    def __init__(
        self,
        workspace: Workspace,
        group: Sequence[ApproximateRewrite],
        proposals: Proposals,
        changes: Changes,
        measures: Measures,
        options: Options,
        journal: Journal,
    ) -> None:
        self._changes, self._measures, self._journal = changes, measures, journal
        self._workspace, self._proposals = workspace, proposals
        self._seed, self._memory = options.seed, options.memory
        self._given = workspace.calibration is not None
        self.most_lost = math.inf if options.force else MOST_LOST
        self._data = FitData(workspace, group, options, journal)
        self.model, self.analysis = workspace.model, self._data.analysis
        self.candidates = self._watched(proposals.match(self.analysis, group), options)
        journal.decline(self._lossy())
        self._forms = Forms(self.analysis, {rewrite.name: rewrite for rewrite in group})
        self.damage = Damage(self._data, self.candidates, self._forms, options.memory, journal)
        self.clock = Clock(self.analysis, self._forms, workspace.source.model, measures, journal)

    def _lossy(self) -> Plan:
        """Where every candidate of a form would lose more of a layer than may be lost, the first of them."""
        forms: dict[tuple[str, Site], list[Candidate]] = {}
        for candidate in self.candidates:
            forms.setdefault((candidate.rewrite, candidate.site), []).append(candidate)
        reason = f"it would lose more than {self.most_lost:.0%} of what counts in the layer's outputs"
        lost = (form[0] for form in forms.values() if min(c.error for c in form) > self.most_lost)
        return Plan((), tuple((candidate, reason) for candidate in lost))

    def _watched(self, candidates: Sequence[Candidate], options: Options) -> list[Candidate]:
        """Those whose error a measure tells of; all where there is nothing to measure, or by force.

        A measure of the user's own has inputs of its own, and one that was named sees every output.
        """
        named = isinstance(options.metric, TaskMetric)
        if not self._given or options.force or (options.metric is not None and not named):
            return list(candidates)
        data = self._data
        reasons = {c: data.idle(c) or ("" if named else data.unseen(c)) for c in candidates}
        for candidate, reason in reasons.items():
            if reason:
                self._journal.reject(candidate, f"{candidate.site.nodes[0]}: {reason}")
        return [candidate for candidate, reason in reasons.items() if not reason]

    def planned(self, limits: Sequence[Limit]) -> Plan:
        """The least damaging plan that keeps the limits."""
        return self._without_failures(lambda: self._planned(limits))

    def _without_failures(self, make: Callable[[], Made]) -> Made:
        """What is made where no rewrite fails: the candidates at which one does are banned."""
        while True:
            try:
                return make()
            except SiteError as error:
                if error.candidate is None or not self._journal.allows(error.candidate):
                    raise
                self._journal.failed(error)

    def _planned(self, limits: Sequence[Limit]) -> Plan:
        with self._journal.step("plan"):
            allowed = [c for c in self.candidates if self._journal.allows(c) and c.error <= self.most_lost]
            timed = any(limit.key == "latency" for limit in limits)
            if timed:
                allowed = self.clock.in_blocks(allowed)
            found = selection.within(allowed, limits, self.damage.of)
        if timed:
            self.clock.save()
        return found

    def network(self, chosen: Plan) -> Network:
        """What a plan makes, without what a rewrite fails at: fitted, put together and measured."""
        return self._without_failures(lambda: self._made(self._allowed(chosen)))

    def _allowed(self, chosen: Plan) -> Plan:
        return replace(chosen, chosen=tuple(c for c in chosen.chosen if self._journal.allows(c)))

    def _made(self, chosen: Plan) -> Network:
        inputs = self._data.inputs
        fits = self._refitted([c for c in chosen.chosen if self._in_order(c)])
        rest = [c for c in chosen.chosen if c.site.nodes[0] not in fits]
        changes = [Change(f.candidate, f.fitted.replacement) for f in fits.values()]
        changes += self._changes.build(self.analysis, rest, self._data.statistics)
        chosen = self._allowed(chosen)
        nodes, position = self.analysis.nodes, self.analysis.position
        changes.sort(key=lambda change: position(nodes[change.candidate.site.nodes[0]]))
        with self._journal.step("commit"):
            whole = edit.apply(self.model, changes) if changes else self.model
            model = self._finished(whole, [change.candidate for change in changes])
        errors: dict[str, float] = {}
        if inputs is not None:
            layers = [self._layer(name, fit) for name, fit in fits.items()]
            with self._journal.step("measure"):
                memory, macs = self._memory // 4, self.analysis.totals.macs
                decided = self._data.decided
                errors = layer_errors.layer_errors(self.model, whole, layers, inputs, memory, macs, decided)
        metric = self._measures.metric(model)
        return Network(chosen, fits, tuple(changes), model, errors, self._measures.quality(model), metric)

    def _finished(self, model: ir.Model, candidates: Sequence[Candidate]) -> ir.Model:
        """A model without what the candidates' layers leave unread."""
        for rewrite in finishing(self._forms.rewrites[c.rewrite] for c in candidates):
            analysis = self._workspace.analysis(model)
            left = left_by(candidates, rewrite, analysis, self._proposals)
            changes = [Change(each, rewrite.build(analysis, each)) for each in left]
            model = edit.apply(model, changes) if changes else model
        return model

    def draft(self, chosen: Plan) -> ir.Model:
        """The network of a plan with weights that mean nothing in the new operators, to be timed."""
        made = ((c, self._forms.draft(c)) for c in chosen.chosen)
        changes = [Change(c, change) for c, change in made if change is not None]
        return self._finished(edit.apply(self.model, changes), [change.candidate for change in changes])

    def _layer(self, name: str, fit: Refitted) -> Layer:
        linear = self.analysis.linear(self.analysis.nodes[name])
        assert linear is not None
        return Layer(name, linear.y, fit.partner, linear.channel_axis or 1)

    def _in_order(self, candidate: Candidate) -> bool:
        """Whether a candidate can be fitted in the order of the network."""
        node = self.analysis.nodes[candidate.site.nodes[0]]
        return self._given and self.analysis.is_outermost(node)

    def _refitted(self, chosen: Sequence[Candidate]) -> dict[str, Refitted]:
        inputs = self._data.inputs
        if not chosen or inputs is None:
            return {}
        with self._journal.step("fit"):
            found = sequential_fit.refit(
                self.analysis,
                chosen,
                self._forms.fit,
                inputs,
                inputs.fit,
                self._data.decided,
                seed=self._seed,
                memory=self._memory,
            )
        return {each.candidate.site.nodes[0]: each for each in found}


def left_by(
    candidates: Iterable[Candidate], rewrite: ExactRewrite, analysis: Analysis, proposals: Proposals
) -> list[Candidate]:
    """What a rewrite finds at the sites of candidates that were put in.

    Args:
        candidates: those that were put in.
        rewrite: an exact one that they ask for.
        analysis: a snapshot of the model with them.
        proposals: what the user did not rule out.

    Returns:
        The rewrite's candidates.
    """
    sites = {name for candidate in candidates for name in candidate.site.nodes}
    found = [each for each in rewrite.match(analysis) if isinstance(each, Candidate)]
    ours = [each for each in found if not sites.isdisjoint(each.site.nodes)]
    return [each for each in ours if not proposals.kept(each)]


def _apart(calibration: Calibration) -> int:
    """The first of the inputs that are probed on."""
    start = calibration.fitted - max(1, int(PROBED_ON * calibration.fitted))
    if calibration.fixed:
        start -= start % calibration.batch
    return max(start, calibration.batch if calibration.fixed else 1)


def _some(calibration: Calibration, start: int, count: int) -> Samples:
    """Some of the inputs to fit on, whole batches where their size is fixed."""
    if calibration.fixed:
        count = max(calibration.batch, count // calibration.batch * calibration.batch)
    return calibration.fit[start : start + count]
