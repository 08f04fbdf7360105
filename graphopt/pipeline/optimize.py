"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import onnx_ir as ir

from graphopt.calibration.inputs import ONE_HELD_OUT_OF
from graphopt.calibration.reading import Given
from graphopt.errors import BudgetError, InputError, Named, VerificationError, hint
from graphopt.model.io import Source
from graphopt.pipeline.approximate import approximate
from graphopt.pipeline.changes import Changes, Proposals, matches_any
from graphopt.pipeline.exact_rounds import ExactRounds
from graphopt.pipeline.expand import expand
from graphopt.pipeline.journal import Journal, Recorder
from graphopt.pipeline.networks import tune
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.reporting import Figures, result_of
from graphopt.pipeline.workspace import Measures, Workspace
from graphopt.planning import NONE, gates, intervals
from graphopt.planning.gates import Gate
from graphopt.report.results import Result
from graphopt.report.wording import still_note, tuning_note
from graphopt.runtime.latency import NOISE, Timing
from graphopt.types import ONE_CLASS, Exactness, Quality
from graphopt.verification.background import Comparer
from graphopt.verification.metrics.task import TaskMetric
from graphopt.verification.outputs import class_scores

LEAST_MS = 1.0
"""Milliseconds of a run from which a network that is slower is not what was asked for. Derived: 500 calls
of operators (`time_model.SECONDS_PER_CALL`); in less, calls count for more than what they compute."""


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
    workspace, proposals, changes, journal = run.workspace, run.proposals, run.changes, run.journal
    check_nodes(options, workspace)
    _check_gates(options.require, workspace)
    _check_inputs(options, workspace)
    _check_classes(options, run.measures, workspace)
    with run.reported():
        if proposals.expanding is not None:  # it runs alone
            expand(proposals.expanding, options.at, workspace, proposals, changes, run.comparer, journal)
        else:
            planned, source_model = proposals.planned, workspace.source.model
            run.exact_rounds.rewrite(source_model, final=not planned)
            if planned:
                network = approximate(workspace, proposals, changes, run.measures, options, journal)
                if network is not None:
                    network = run.tuned(network)
                    run.exact_rounds.rewrite(network)
                else:
                    run.exact_rounds.rewrite(source_model, verified=True)
    return run.judged()


class Run:
    """The parts of one run over one model, put together."""

    def __init__(self, source: Source, options: Options, calibration: Given | None = None) -> None:
        self._options = options
        self.journal = journal = Journal()
        self.workspace = workspace = Workspace(source, options, calibration, journal)
        self._recorder = Recorder(workspace.source, options, workspace.calibration, journal)
        self.proposals = Proposals(options, journal)
        self.changes = Changes(workspace, options, self._recorder, journal)
        self.measures = Measures(workspace, options, self._recorder, journal)
        if workspace.inputs.problem or gates.of_budget(options.budget):
            _ = workspace.unloaded  # before any work is done
        _ = self.measures.measure  # whether it fits the model
        step, inputs = partial(journal.step, "verify"), workspace.inputs
        self.comparer = Comparer(inputs.feeds, options.outputs, inputs.problem, step, frozen=workspace.frozen)
        self.exact_rounds = ExactRounds(
            workspace, self.proposals, self.changes, self.comparer, journal, options.aim == "time"
        )

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Gives a verification that fails the report of the run up to it."""
        try:
            yield
        except VerificationError as failure:
            kept = gates.judge(gates.of_budget(self._options.budget), {})
            failure.result = self._result(Figures(kept, gates.judge(self._options.require, {})))
            raise

    def tuned(self, network: ir.Model) -> ir.Model:
        """The network with all weights fitted together, where that was asked for and brings it nearer."""
        workspace, options, measures, journal = self.workspace, self._options, self.measures, self.journal
        if options.tune is None or workspace.calibration is None:
            return network
        found, journal.tuning = tune.tune_weights(
            workspace.original,
            network,
            workspace.calibration,
            options.tune,
            outputs=options.outputs,
            axes=options.outputs.axes,
            memory=options.memory,
            seed=options.seed,
            frozen=workspace.frozen,
        )
        for kind, seconds in journal.tuning.seconds.items():
            journal.seconds[kind] = journal.seconds.get(kind, 0.0) + seconds
        before, after = (
            (measures.quality(model), measures.asked_metric(model)) for model in (network, found)
        )
        broken = measures.broken(before, after)
        better = before[0] is not None and after[0] is not None and tune.better(before[0], after[0])
        kept = better and not broken
        told = tuning_note(journal.tuning, kept=kept, broken=broken)
        journal.notes += filter(None, [told, still_note(journal.tuning)])
        if kept:
            workspace.model = found
        return workspace.model

    def judged(self) -> Result:
        """The result with its figures, if it keeps the budget and passes the gates.

        Raises:
            BudgetError: it does not.
            RefusedError: nothing was run, and onnxruntime refuses the input.
        """
        options, workspace, measures = self._options, self.workspace, self.measures
        budget, model = gates.of_budget(options.budget), workspace.model
        if not any(check.scope.startswith("model") for check in self.journal.checks):
            _ = workspace.unloaded  # nothing has told yet whether onnxruntime takes the model
        self._recorder.record(model)  # before anything is measured: its bytes count too
        found, metric = measures.quality(model), measures.metric(model)
        fitted = any(item.exactness is Exactness.APPROXIMATE for item in self.journal.applied)
        limits = [gate.limit for gate in (*budget, *options.require) if gate.key == "latency"]
        timed = fitted or options.budget.latency is not None or (workspace.changed and bool(limits))
        timing = None
        if timed and not workspace.inputs.problem:
            timing = measures.latency(model, min(limits, default=1 + NOISE))
            self.journal.notes += filter(None, map(timing.undecided, limits))
        figures = measures.figures(found, metric, timing)
        known = measures.known(found, metric) if fitted else None
        kept, passed = (gates.judge(asked, figures, known) for asked in (budget, options.require))
        result = self._result(Figures(kept, passed, found, timing, measures.compared(metric)))
        reasons = [] if all(kept) else [f"the budget was not reached: {gates.missed(kept)}"]
        unmeasured = "" if options.force or not budget else self._unmeasured(found)
        if unmeasured and (fitted or not all(kept)):
            reasons.insert(0, unmeasured)
        if self.journal.below:
            reasons.insert(0, self._below(figures.get("macs")))
        if self._slower(timing):
            anyway = f"{Named('aim', 'macs')} goes by MACs alone, {Named('force')} takes it all the same"
            reasons.append(f"{timing.verdict}; {anyway}")
        if not all(passed):
            reasons.append(f"the result fails what is required: {gates.failed(passed)}")
        few = gates.undecided((*kept, *passed), options.confidence, ONE_HELD_OUT_OF)
        if reasons:
            raise BudgetError("; ".join([*reasons, *([few] if few else [])]), result)
        return result

    def _slower(self, timing: Timing | None) -> TypeGuard[Timing]:
        """Whether what a budget of other costs made is clearly slower, which no one asks for by time."""
        options = self._options
        if timing is None or options.force or options.aim != "time" or options.budget.latency is not None:
            return False
        known = timing.ratio > 1 + NOISE and timing.tells(1 + NOISE)
        return options.budget.asks_cost and known and timing.reference_ms > LEAST_MS

    def _below(self, macs: float | None) -> str:
        """That the network that was asked for is below the floor, which one is not, and what to do."""
        if macs is None:  # by which a better one would have been looked for
            found = "ask for less"
        elif any(item.exactness is Exactness.APPROXIMATE for item in self.journal.applied):
            found = f"the best network that keeps it has {macs:.3f} of the MACs"
        else:
            found = "no network that is fitted keeps it"
        return (
            f"the network that was asked for is below the floor: {self.journal.below}; {found}; "
            f"{Named('force')} takes it all the same, {Named('floor', 'off')} sets none"
        )

    def _unmeasured(self, found: Quality | None) -> str:
        """That the quality of what a budget asks for can't be measured, and what to do; "" where it can."""
        problem = self.measures.unmeasurable()
        if not problem and found is not None and self._options.metric is None:
            problem = found.problem
        if not problem:
            return ""
        return (
            f"the quality can't be measured: {problem}; name a measure of your own with {Named('metric')}, "
            f"or take a network all the same with {Named('force')}"
        )

    def _result(self, figures: Figures) -> Result:
        self._recorder.record(self.workspace.model)
        return result_of(self.workspace, self.proposals, self._options, self.journal, figures)


def _check_inputs(options: Options, workspace: Workspace) -> None:
    """Refuses a part of the inputs that a budget asks for where no network could be known to keep it.

    Raises:
        InputError: the held-out inputs are too few though all were right.
    """
    given, confidence = workspace.calibration, options.confidence
    if given is None or not confidence or workspace.inputs.problem:
        return
    headline = options.metric.measure.FIGURES[0] if isinstance(options.metric, TaskMetric) else None
    for gate in gates.of_budget(options.budget):
        of = headline if gate.key == "metric" else gate.of
        counted = of is not None and of.counted
        if gate.key == "agreement":
            counted = class_scores.counts_inputs(workspace.source.model, options.outputs)
        needed = intervals.fewest(gate.limit, confidence) if counted else 0
        if needed is not None and given.samples >= needed:
            continue
        asked = Named("budget", gate.limit, gate.key)
        known = intervals.wilson(1.0, given.samples, confidence)[0]
        advice = "ask for less"
        if needed is not None:
            advice = f"give {ONE_HELD_OUT_OF * needed}, {needed} of them held out"
        every = "the one held-out input" if given.samples == 1 else f"all {given.samples} held-out inputs"
        raise InputError(
            f"{asked}: were {every} right, {known:.3g} would be known with a "
            f"confidence of {confidence:g}: {advice}, or go by the figure alone with "
            f"{Named('confidence', NONE)}"
        )


def _check_classes(options: Options, measures: Measures, workspace: Workspace) -> None:
    """Refuses inputs of one class alone where their agreement is asked for.

    Raises:
        InputError: the original ranks the same class first for all held-out inputs.
    """
    asked = [gate for gate in gates.of_budget(options.budget) if gate.key == "agreement"]
    if not asked or workspace.calibration is None or workspace.inputs.problem:
        return
    found = measures.quality(workspace.source.model)
    if found is not None and found.agreement is None and found.alike:
        asked_for = Named("budget", asked[0].limit, "agreement")
        raise InputError(f"{asked_for}: in {found.alike[0]!r} {ONE_CLASS}")


def check_nodes(options: Options, workspace: Workspace) -> None:
    """Refuses patterns of nodes to rewrite of which none matches any name.

    Raises:
        InputError: none does.
    """
    names = list(workspace.original.nodes)
    if options.at and not any(matches_any(name, options.at) for name in names):
        pattern = options.at[0]
        raise InputError(f"{Named('at', pattern)}: no node has such a name; {hint(pattern, names)}")


def _check_gates(required: Sequence[Gate], workspace: Workspace) -> None:
    """Refuses gates for which the model can't give a figure, before any work is done.

    Raises:
        InputError: a size is unknown, or onnxruntime can't run the model.
    """
    inputs = workspace.inputs
    for gate in required:
        if gate.key == "macs":
            workspace.require_macs(Named("require", gate))
        if gate.key in ("latency", *gates.MEASURED) and inputs.problem:
            raise InputError(f"{Named('require', gate)}: the model can't be run: {inputs.problem}")
