"""Networks with approximate rewrites: what they are made of, and how good each is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.compression import layer_errors, sequential_fit
from graphopt.compression.layer_errors import Layer
from graphopt.compression.sequential_fit import Refitted
from graphopt.errors import SiteError
from graphopt.model import edit
from graphopt.pipeline.changes import Changes, Proposals
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.networks.fit_data import FitData
from graphopt.pipeline.networks.pricing import Clock, Damage, Forms
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.workspace import Measures, Workspace
from graphopt.planning import selection
from graphopt.planning.damage import Sensitivity
from graphopt.planning.selection import Limit, Plan
from graphopt.rewrites.base import ApproximateRewrite, ExactRewrite
from graphopt.rewrites.registry import finishing
from graphopt.types import Candidate, Change, Quality, Site
from graphopt.verification.metrics.task import TaskMetric

Made = TypeVar("Made")

MOST_LOST = 0.5
"""Part of what counts in a layer's outputs that may be lost, unless the user forces it. Derived: with more,
what is left says less of them than what was lost."""


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
        self._seed, self._memory, self._aim = options.seed, options.memory, options.aim
        self._given = workspace.calibration is not None
        self.most_lost = math.inf if options.force else MOST_LOST
        self._data = FitData(workspace, group, options, journal)
        self.model, self.analysis = workspace.model, self._data.analysis
        planned, along = ([each for each in group if each.saves is kind] for kind in (True, False))
        self.candidates = self._watched(proposals.match(self.analysis, planned), options)
        self._along = self._watched(proposals.match(self.analysis, along), options)
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

    def sensitivities(self) -> dict[str, Sensitivity]:
        """How much an error in each layer harms the output, by name of its operator."""
        return self._without_failures(lambda: self.damage.sensitivities)

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
            plan = selection.within if timed or self._aim == "macs" else selection.swift
            found = plan(allowed, limits, self.damage.of)
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
        fits = self._refitted([c for c in chosen.chosen if self._in_order(c)], self._beside(chosen))
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

    def _beside(self, chosen: Plan) -> list[Candidate]:
        """What comes along with a plan, at operators that it leaves as they are."""
        taken = {candidate.site for candidate in chosen.chosen}
        free = (each for each in self._along if each.site not in taken and self._journal.allows(each))
        return [each for each in free if self._in_order(each)]

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
        assert linear is not None and linear.channel_axis, f"{name} has samples before its channels"
        return Layer(name, linear.y, fit.partner, linear.channel_axis)

    def _in_order(self, candidate: Candidate) -> bool:
        """Whether a candidate can be fitted in the order of the network."""
        node = self.analysis.nodes[candidate.site.nodes[0]]
        return self._given and self.analysis.is_outermost(node)

    def _refitted(self, chosen: Sequence[Candidate], along: Sequence[Candidate]) -> dict[str, Refitted]:
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
                along,
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
