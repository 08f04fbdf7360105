"""Networks with approximate rewrites: what they are made of, which one a budget asks for, how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import statistics as calibration_statistics
from graphopt.calibration import synthetic
from graphopt.calibration.inputs import Calibration
from graphopt.compression import curvature, layer_errors, sequential_fit
from graphopt.compression import sensitivity as compression_sensitivity
from graphopt.compression.layer_errors import Layer
from graphopt.compression.sequential_fit import Refitted
from graphopt.errors import InputError, blaming
from graphopt.model import edit
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.pipeline.run import Change, Run
from graphopt.planning import selection
from graphopt.planning.damage import Sensitivity, unprobed
from graphopt.planning.selection import Limit, Plan
from graphopt.report.results import Applied, Point
from graphopt.rewrites.base import Rewrite
from graphopt.runtime.operator_times import Stopwatch, cache_path
from graphopt.runtime.session import Feeds
from graphopt.types import Candidate, Exactness, Fitted, Quality, Replacement

PLANNED_ON = 384
"""Inputs whose statistics the plan is made from, at most; the chosen layers are then fitted to all: a choice;
benchmarks.thresholds tries others."""
PROBED_ON = 0.25
"""Part of the inputs to fit on that are probed on alone: on what it was fitted to, a fit looks too good. How
large a part is a choice; benchmarks.thresholds tries others."""


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


class Search:
    """All that is shared by the networks that are made of one model.

    Args:
        run: the run; its model as it is now is what is compressed.
        group: the approximate rewrites that take part.
    """

    def __init__(self, run: Run, group: Sequence[Rewrite]) -> None:
        self._run = run
        self._rewrites = {rewrite.name: rewrite for rewrite in group}
        self.model = run.model
        self.analysis: Analysis = run.analysis(run.model)
        self._statistics: dict[str, Statistics] | None = None
        self._inputs = run.calibration or self._synthetic()
        if self._inputs is not None:
            self._statistics = self._gathered(self._inputs, group)
            self.analysis = run.analysis(run.model, self._statistics)
        self.candidates = run.match(self.analysis, group)

    def _synthetic(self) -> Calibration | None:
        """Inputs to fit on where there are none; what they say of the error is no measurement."""
        run = self._run
        if run.inputs.problem:
            return None
        with run.journal.step("calibrate"):
            macs = run.original.totals.macs
            return synthetic.inputs(run.source.model, run.inputs.sizes, macs, run.options.seed)

    def _gathered(self, calibration: Calibration, group: Sequence[Rewrite]) -> dict[str, Statistics]:
        """Statistics of what the operators read that the rewrites ask about."""
        run = self._run
        with run.journal.step("calibrate"):
            needed = {
                linear.name: linear
                for rewrite in group
                if (needs := getattr(rewrite, "inputs_needed", None)) is not None
                for linear in needs(self.analysis)
                if self.analysis.is_outermost(linear.node)
            }
            some = _some(calibration, 0, min(PLANNED_ON, self._apart(calibration)))
            linears = list(needed.values())
            found = calibration_statistics.statistics(
                self.analysis, linears, calibration, some, run.options.seed
            )
        counts = self._weightings(linears, calibration, some)
        return {name: replace(each, weighting=counts.get(name, ())) for name, each in found.items()}

    def _weightings(
        self, linears: Sequence[Linear], calibration: Calibration, feeds: Feeds
    ) -> dict[str, tuple[npt.NDArray[np.float64], ...]]:
        """What errors in the outputs of operators count, where that is known.

        Synthetic inputs don't tell: on ResNet-20 more was lost with it at 0.6 of the MACs.
        """
        run = self._run
        if run.calibration is None:
            return {}
        try:
            with run.journal.step("differentiate"):
                return curvature.weightings(
                    self.analysis,
                    linears,
                    calibration,
                    feeds,
                    self._watched,
                    seed=run.options.seed,
                )
        except InputError as error:
            run.journal.notes.append(f"errors in all outputs of a layer count the same: {error}")
            return {}

    @staticmethod
    def _apart(calibration: Calibration) -> int:
        """The first of the inputs that are probed on."""
        start = calibration.fitted - max(1, int(PROBED_ON * calibration.fitted))
        if calibration.fixed:
            start -= start % calibration.batch
        return max(start, calibration.batch if calibration.fixed else 1)

    @property
    def _watched(self) -> list[str]:
        """The values that stand for the outputs that count."""
        names = [v.name or "" for v in self.model.graph.outputs if self._run.counts(v.name or "")]
        return [compression_sensitivity.before_normalising(self.analysis, name) for name in names]

    # ------------------------------------------------------------ damage

    @cached_property
    def sensitivities(self) -> dict[str, Sensitivity]:
        """How much an error in each layer harms the output, by name; empty without calibration."""
        run = self._run
        if self._inputs is None or self._statistics is None:
            return {}
        layers: dict[str, list[Candidate]] = {}
        for candidate in self.candidates:
            name = candidate.site.nodes[0]
            if name in self._statistics and self._fits(candidate):
                layers.setdefault(name, []).append(candidate)
        macs = self.analysis.totals.macs
        left = self._inputs.fitted - self._apart(self._inputs)
        count = compression_sensitivity.inputs_to_probe(macs, left, len(layers))
        with run.journal.step("probe"):
            return compression_sensitivity.sensitivities(
                self.analysis,
                layers,
                self._statistics,
                self._fit,
                self._inputs,
                _some(self._inputs, self._apart(self._inputs), count),
                self._watched,
                run.options.memory,
            )

    def damage(self, candidate: Candidate) -> float:
        """What a candidate costs the network's quality."""
        found = self.sensitivities.get(candidate.site.nodes[0])
        return unprobed(candidate.error) if found is None else found.damage(candidate.error)

    # ------------------------------------------------------------ networks

    def planned(self, limits: Sequence[Limit]) -> Plan:
        """The least damaging plan that keeps the limits."""
        with self._run.journal.step("plan"):
            allowed = [c for c in self.candidates if self._run.journal.allows(c)]
            timed = any(limit.key == "latency" for limit in limits)
            if timed:
                allowed = self._in_blocks(allowed)
            found = selection.within(allowed, limits, self.damage)
        if timed:
            self._stopwatch.save()
        return found

    def _in_blocks(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those whose ranks are whole blocks of channels; of a site that has none, all."""
        block = self._stopwatch.block()
        if block > 1:
            note = f"ranks are multiples of {block}: by measurement kernels compute so many channels at once"
            self._run.journal.notes.append(note)

        def whole(candidate: Candidate) -> bool:
            linear = self.analysis.linear(self.analysis.nodes[candidate.site.nodes[0]])
            group = 1 if linear is None else linear.group
            ranks = [rank for key, rank in candidate.choice.items() if key.startswith("rank")]
            return all(group * int(rank) % block == 0 for rank in ranks)

        kept = [candidate for candidate in candidates if whole(candidate)]
        sites = {candidate.site for candidate in kept}
        return [c for c in candidates if c.site not in sites or whole(c)]

    def network(self, chosen: Plan) -> Network:
        """What a plan makes: fitted, put together and measured."""
        run = self._run
        fits = self._refitted([c for c in chosen.chosen if self._in_order(c)])
        rest = [c for c in chosen.chosen if c.site.nodes[0] not in fits]
        changes: list[Change] = [(f.candidate, f.fitted.replacement) for f in fits.values()]
        changes += run.build(self.analysis, rest, self._statistics)
        changes.sort(key=lambda change: self.analysis.position(self.analysis.nodes[change[0].site.nodes[0]]))
        with run.journal.step("commit"):
            model = edit.apply(self.model, changes) if changes else self.model
        if self._inputs is None:
            return Network(chosen, fits, tuple(changes), model, {}, None, run.metric_of(model))
        layers = [self._layer(name, fit) for name, fit in fits.items()]
        with run.journal.step("measure"):
            memory, macs = run.options.memory // 4, self.analysis.totals.macs
            errors = layer_errors.layer_errors(self.model, model, layers, self._inputs, memory, macs)
        metric = run.metric_of(model)
        return Network(chosen, fits, tuple(changes), model, errors, run.quality_of(model), metric)

    def draft(self, chosen: Plan) -> ir.Model:
        """The network of a plan with weights that mean nothing in the new operators, to be timed."""
        changes = [(c, change) for c in chosen.chosen if (change := self._draft(c)) is not None]
        return edit.apply(self.model, changes)

    def _draft(self, candidate: Candidate) -> Replacement | None:
        """The operators of a candidate, whatever their weights; None where that can't be told."""
        make = getattr(self._rewrites[candidate.rewrite], "draft", None)
        if make is None:
            return None
        linear = self.analysis.linear(self.analysis.nodes[candidate.site.nodes[0]])
        change: Replacement = make(linear, candidate)
        return change

    # ------------------------------------------------------------ figures

    def time_saved(self, candidate: Candidate) -> float:
        """What a candidate alone saves of the input's time at one thread, as a part of it; measured once."""
        if candidate not in self._saved:
            change = self._draft(candidate)
            if change is None:
                self._saved[candidate] = 0.0
            else:
                with self._run.journal.step("time"):
                    before, after = self._stopwatch.seconds(self.analysis, candidate, change)
                    self._saved[candidate] = (before - after) / self._reference_seconds
        return self._saved[candidate]

    @cached_property
    def _reference_seconds(self) -> float:
        """Seconds that the input takes, timed as the candidates are."""
        return self._stopwatch.whole(self._run.source.model, self._run.timed_feed)

    @cached_property
    def _saved(self) -> dict[Candidate, float]:
        return {}

    @cached_property
    def _stopwatch(self) -> Stopwatch:
        return Stopwatch(cache_path())

    def costs(self, model: ir.Model) -> dict[str, float]:
        """MACs and parameters, and what else the budget asks for, as parts of the input's."""
        before, now = self._run.spent_before, self._run.spent_by(model)
        pairs = {
            "macs": (before.totals.macs, now.totals.macs),
            "params": (before.totals.params, now.totals.params),
        }
        if before.bytes:
            pairs["bytes"] = (before.bytes, now.bytes)
        return {key: after / was for key, (was, after) in pairs.items() if was and after is not None}

    def point(self, network: Network) -> Point:
        """The network's place on the curve of the search."""
        fits = network.fits
        chosen = tuple(
            fits[c.site.nodes[0]].candidate if c.site.nodes[0] in fits else c for c in network.plan.chosen
        )
        costs = self.costs(network.model)
        return Point(costs, network.quality, chosen, network.plan.chosen, network.metric)

    def applied(self, network: Network, candidate: Candidate) -> Applied:
        """A candidate of a network as the report gives it."""
        name = candidate.site.nodes[0]
        fit, sensitivity = network.fits.get(name), self.sensitivities.get(name)
        planned = next(c for c in network.plan.chosen if c.site == candidate.site)
        return Applied(
            candidate,
            Exactness.APPROXIMATE,
            None if self._run.calibration is None else network.errors.get(name),
            not self._run.inputs.assumed,
            None if sensitivity is None else sensitivity.damage(planned.error) / (candidate.error or 1.0),
            {} if fit is None else fit.fitted.spectra,
        )

    def _layer(self, name: str, fit: Refitted) -> Layer:
        linear = self.analysis.linear(self.analysis.nodes[name])
        assert linear is not None
        return Layer(name, linear.y, fit.partner, linear.channel_axis or 1)

    def _fits(self, candidate: Candidate) -> bool:
        return hasattr(self._rewrites[candidate.rewrite], "fit")

    def _in_order(self, candidate: Candidate) -> bool:
        """Whether a candidate can be fitted in the order of the network."""
        node = self.analysis.nodes[candidate.site.nodes[0]]
        return (
            self._run.calibration is not None and self._fits(candidate) and self.analysis.is_outermost(node)
        )

    def _refitted(self, chosen: Sequence[Candidate]) -> dict[str, Refitted]:
        run = self._run
        if not chosen or self._inputs is None:
            return {}
        with run.journal.step("fit"):
            found = sequential_fit.refit(
                self.analysis,
                chosen,
                self._fit,
                self._inputs,
                self._inputs.fit,
                seed=run.options.seed,
                memory=run.options.memory,
            )
        return {each.candidate.site.nodes[0]: each for each in found}

    def _fit(self, candidate: Candidate, statistics: Statistics, refine: int) -> Fitted:
        rewrite = self._rewrites[candidate.rewrite]
        with blaming(rewrite.name, f"at {candidate.site.nodes[0]}"):
            fitted: Fitted = rewrite.fit(  # type: ignore[attr-defined]
                self.analysis, candidate, {candidate.site.nodes[0]: statistics}, refine=refine
            )
        return fitted


def _some(calibration: Calibration, start: int, count: int) -> Feeds:
    """Some of the inputs to fit on, whole batches where their size is fixed."""
    if calibration.fixed:
        count = max(calibration.batch, count // calibration.batch * calibration.batch)
    return {name: array[start : start + count] for name, array in calibration.fit.items()}
