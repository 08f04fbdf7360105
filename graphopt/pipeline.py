"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import onnx_ir as ir

from graphopt import budget, calibrate, edit, feeds, latency, plan, regions, verification
from graphopt import model as files
from graphopt.analysis import Analysis, Totals
from graphopt.budget import Spent
from graphopt.calibrate import Calibration, Given
from graphopt.core import (
    Array,
    Budget,
    Candidate,
    Exactness,
    Plan,
    Rejection,
    Replacement,
    Rewrite,
    Shape,
    Site,
)
from graphopt.errors import BudgetError, InputError, VerificationError, blaming
from graphopt.feeds import TestInputs
from graphopt.journal import Journal, worst
from graphopt.lowrank import Moments
from graphopt.model import Source
from graphopt.observe import snapshot
from graphopt.report import Applied, Report
from graphopt.result import Result
from graphopt.rewrites import option_types
from graphopt.runtime import Feeds
from graphopt.verification import Verification

MAX_ROUNDS = 20
"""Exact rounds (match, plan, commit) after which it is left at that."""

STAGES = 4
"""Groups of exact rewrites; one is asked only when those before it find nothing: those that fold into an
operator what another would move it away from (``goes_first``), cheap ones, those that read weights
(``reads_weights``), and those that take a form which others can't read (``goes_last``)."""

Change: TypeAlias = tuple[Candidate, Replacement]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see `graphopt.optimize`."""

    budget: Budget = field(default_factory=Budget)
    rewrites: tuple[Rewrite, ...] = ()
    by_time: bool = True
    at: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    gate_latency: bool = False
    freeze_initializers: bool = False

    def described(self) -> dict[str, object]:
        """The options as the report gives them."""
        return {
            "budget": {key: value for key, value in asdict(self.budget).items() if value is not None},
            "rewrites": {r.name: {name: getattr(r, name) for name in option_types(r)} for r in self.rewrites},
            "aim": "time" if self.by_time else "macs",
            "gate": "latency" if self.gate_latency else None,
            "at": self.at,
            "keep": self.keep,
            "outputs": self.outputs,
            "shapes": dict(self.shapes),
            "seed": self.seed,
            "freeze_initializers": self.freeze_initializers,
        }


class Round(NamedTuple):
    """One exact round: the model before it, what it changed, and the journal's mark before it."""

    model: ir.Model
    changes: list[Change]
    mark: tuple[int, int]


class Pipeline:
    """One run over one model.

    Args:
        source: the model as loaded.
        options: what the user asked for.
        calibration: calibration inputs, or what they can be read from.
    """

    def __init__(self, source: Source, options: Options, calibration: Given | None = None) -> None:
        self.source = source
        self.options = options
        self.journal = Journal()
        self.calibration: Calibration | None = None
        self._known: dict[str, Shape] = {}
        with self.journal.step("load"):
            verification.check_outputs(source.model, options.outputs)
            if calibration is not None:
                self.calibration = calibrate.load(calibration, source.model, options.seed)
        self.model = source.model
        with self.journal.step("analyse"):
            self.inputs = self._choose_inputs()
            self.original = self._analysis(source.model)
        if self.original.overridable and options.freeze_initializers:
            self.model = edit.freeze(self.model)

    # ------------------------------------------------------------ the flow

    def run(self) -> Result:
        """Rewrites, verifies and reports.

        Raises:
            VerificationError: the rewritten model computes something else.
            BudgetError: the budget was not reached.
        """
        for expanding in self._taking_part(Exactness.EXPANDING):
            self._expand(expanding)
            return self._result(self._quality())  # it runs alone
        self._rewrite_exactly(self.source.model)
        if self._approximate():
            self._rewrite_exactly(self.model)
        result = self._result(self._quality())
        missed = budget.missed(self.options.budget, self._spent_before, self._spent())
        if missed:
            raise BudgetError(f"the budget was not reached: {missed}", result)
        return result

    def _rewrite_exactly(self, reference: ir.Model) -> None:
        """Exact rounds until nothing is left to do, and the whole model verified against the reference.

        A change that makes the whole model differ is found, dropped, and the rounds go on without it.

        Raises:
            VerificationError: the model differs, and no single change is guilty.
        """
        rounds: list[Round] = []
        while True:
            self._exact_rounds(rounds)
            found = self._compare(reference, self.model)
            if found:
                self.journal.checks += found.checks
                self.journal.notes += found.notes
                return
            failed = worst(found.checks)
            why = failed.note or f"relative difference {failed.max_rel:.1e}, allowed {failed.allowed:.1e}"
            if not self._drop_guilty(reference, rounds, why):
                self.journal.checks += found.checks
                raise VerificationError(f"the rewritten model differs: {why}", self._result(None))

    def _exact_rounds(self, rounds: list[Round]) -> None:
        """Match, plan, verify, build and commit, until nothing is left to do."""
        every = self._taking_part(Exactness.EXACT)
        while len(rounds) < MAX_ROUNDS:
            analysis = self._analysis(self.model)
            changes: list[Change] = []
            mark = self.journal.mark()
            self.journal.begin_round(rewrite.name for rewrite in every)
            for stage in range(STAGES):
                group = [rewrite for rewrite in every if _stage(rewrite) == stage]
                changes = changes or self._exact_changes(analysis, group)
            if not changes:
                return
            rounds.append(Round(self.model, changes, mark))
            self._commit(changes)
        self.journal.notes.append(f"stopped after {MAX_ROUNDS} rounds; another run may find more")

    def _exact_changes(self, analysis: Analysis, group: Sequence[Rewrite]) -> list[Change]:
        """The verified changes of one round; a change that fails is dropped, and the plan made again."""
        while True:
            candidates = self._match(analysis, group)
            totals = self.original.totals
            chosen = plan.exact(
                candidates,
                by_time=self.options.by_time,
                macs=totals.macs,
                weight_bytes=totals.weight_bytes,
            )
            self.journal.decline(chosen)
            changes = self._build(analysis, chosen.chosen, None)
            if not self._failing(analysis, changes):
                return changes

    def _drop_guilty(self, reference: ir.Model, rounds: list[Round], why: str) -> bool:
        """Finds the change with which the model begins to differ, bans it, and goes back to before its round.

        Returns:
            Whether there was one.
        """
        models = [each.model for each in rounds[1:]] + [self.model]
        first = _first_failing(len(rounds), lambda n: bool(self._compare(reference, models[n - 1])))
        if first is None:
            return False
        guilty_round = rounds[first - 1]

        def passes(count: int) -> bool:
            model = edit.apply(guilty_round.model, guilty_round.changes[:count])
            return bool(self._compare(reference, model))

        number = _first_failing(len(guilty_round.changes), passes)
        if number is None:
            return False
        candidate = guilty_round.changes[number - 1][0]
        self.journal.back(guilty_round.mark)
        self.journal.ban(candidate, f"failed verification: with it the whole model differs, {why}")
        self.model = guilty_round.model
        del rounds[first - 1 :]
        return True

    def _expand(self, rewrite: Rewrite) -> None:
        """Inserts what makes the model dearer and leaves its function as it is, once at each chosen node.

        Raises:
            VerificationError: the model computes something else.
        """
        analysis = self._analysis(self.model, extremes=self._extremes(rewrite))
        candidates = self._match(analysis, [rewrite])
        chosen = [c for c in candidates if _matches(c.site.nodes[0], self.options.at)]
        changes = self._build(analysis, chosen, None)
        condition = getattr(rewrite, "condition", "")
        if not condition:  # what holds on some inputs only is compared on those, in the whole model
            self._failing(analysis, changes)
            changes = [change for change in changes if self.journal.allows(change[0])]
        if not changes:
            return
        self._commit(changes)
        added = sum((c.after.macs or 0) - (c.before.macs or 0) for c, _ in changes)
        self.journal.notes.append(f"{rewrite.name} raises the MACs by {added:,}, as was asked")
        if condition:
            self.journal.notes.append(f"equal {condition}; on inputs beyond their range it may differ")
        inputs = None
        if condition and self.calibration is not None:
            parts = (self.calibration.fit, self.calibration.held_out)
            inputs = [batch for part in parts for batch in self.calibration.batches(part)]
        found = self._compare(self.source.model, self.model, inputs)
        self.journal.checks += found.checks
        self.journal.notes += found.notes
        if not found:
            raise VerificationError(f"the expanded model differs: {worst(found.checks)}", self._result(None))

    def _extremes(self, rewrite: Rewrite) -> dict[str, tuple[Array, Array]] | None:
        """The range of the outputs that an expanding rewrite asks for."""
        needs = getattr(rewrite, "outputs_needed", None)
        if self.calibration is None or needs is None:
            return None
        with self.journal.step("calibrate"):
            analysis = self._analysis(self.model)
            chosen = [each for each in needs(analysis) if _matches(each.name, self.options.at)]
            outer = [linear for linear in chosen if analysis.is_outermost(linear.node)]
            return calibrate.extremes(analysis, outer, self.calibration)

    def _approximate(self) -> bool:
        """One plan over the model with the approximate rewrites; whether it changed anything."""
        group = self._taking_part(Exactness.APPROXIMATE)
        fixed = [r for r in group if getattr(r, "fixed", False)]
        unknown = ", ".join(self.unknown_dims)
        limits = budget.limits(self.options.budget, self._spent_before, self._spent(), unknown)
        needed = any(limit.needed > 0 for limit in limits)
        if not group or not (fixed or needed):
            return False
        analysis = self._analysis(self.model)
        moments = self._moments(analysis, group)
        if moments is not None:
            analysis = self._analysis(self.model, moments)
        candidates = self._match(analysis, fixed or group)
        chosen = plan.within(candidates, limits) if needed else Plan(tuple(candidates))
        self.journal.decline(chosen)
        changes = self._build(analysis, chosen.chosen, moments)
        changes = self._running(analysis, changes)
        if changes:
            self._commit(changes, self._region_errors(analysis, changes))
        return bool(changes)

    # ------------------------------------------------------------ snapshots

    def _choose_inputs(self) -> TestInputs:
        options = self.options
        probe = Analysis(self.source.model, bindings=options.shapes, frozen=options.freeze_initializers)
        del probe  # refuses shapes that do not fit, before anything is run
        return feeds.choose(
            self.source.model, shapes=options.shapes, calibration=self.calibration, seed=options.seed
        )

    def _analysis(
        self,
        model: ir.Model,
        moments: Mapping[str, Moments] | None = None,
        extremes: Mapping[str, tuple[Array, Array]] | None = None,
    ) -> Analysis:
        """A snapshot at the sizes of the test inputs; shapes that inference misses are seen by running."""
        return snapshot(
            model,
            bindings=self.inputs.sizes,
            known=self._known,
            frozen=self.options.freeze_initializers,
            moments=moments,
            extremes=extremes,
            seed=self.options.seed,
        )

    def _moments(self, analysis: Analysis, group: Sequence[Rewrite]) -> dict[str, Moments] | None:
        if self.calibration is None:
            return None
        with self.journal.step("calibrate"):
            needed = {
                linear.name: linear
                for rewrite in group
                if (needs := getattr(rewrite, "inputs_needed", None)) is not None
                for linear in needs(analysis)
                if analysis.is_outermost(linear.node)
            }
            return calibrate.moments(analysis, list(needed.values()), self.calibration, self.options.seed)

    # ------------------------------------------------------------ propose and plan

    def _taking_part(self, exactness: Exactness) -> list[Rewrite]:
        return [rewrite for rewrite in self.options.rewrites if rewrite.exactness is exactness]

    def _match(self, analysis: Analysis, group: Sequence[Rewrite]) -> list[Candidate]:
        """The candidates that the user did not rule out and that did not fail before."""
        with self.journal.step("propose"):
            candidates: list[Candidate] = []
            for rewrite in group:
                with blaming(rewrite.name, "to match"):
                    matches = list(rewrite.match(analysis))
                for found in matches:
                    reason = self._ruled_out(found.site)
                    if isinstance(found, Rejection) or reason:
                        self.journal.reject(found, reason or getattr(found, "reason", ""))
                    elif self.journal.allows(found):
                        candidates.append(found)
            return candidates

    def _ruled_out(self, site: Site) -> str:
        """Why --at or --keep leaves the site out; "" when they don't."""
        kept = next((n for n in site.nodes if _matches(n, self.options.keep)), None)
        if kept is not None:
            return f"--keep names {kept}"
        if self.options.at and not any(_matches(node, self.options.at) for node in site.nodes):
            return "--at names other nodes"
        return ""

    # ------------------------------------------------------------ build, verify, commit

    def _build(
        self, analysis: Analysis, chosen: Iterable[Candidate], moments: Mapping[str, Moments] | None
    ) -> list[Change]:
        with self.journal.step("build"):
            named = {rewrite.name: rewrite for rewrite in self.options.rewrites}
            changes = []
            for candidate in chosen:
                with blaming(candidate.rewrite, f"at {candidate.site.nodes[0]}"):
                    change = named[candidate.rewrite].build(analysis, candidate, moments)
                    regions.check_names(analysis, candidate, change)
                changes.append((candidate, change))
            return changes

    def _failing(self, analysis: Analysis, changes: Sequence[Change]) -> bool:
        """Compares each exact change alone with what it replaces; bans those that differ or are slower."""
        with self.journal.step("verify"):
            verdicts = regions.check_regions(analysis, changes, self.options.seed)
        reasons: dict[Candidate, str] = {}
        for candidate, verdict in verdicts:
            if not verdict:
                difference = f"relative difference {verdict.max_rel:.1e}, allowed {verdict.allowed:.0e}"
                reasons[candidate] = f"failed verification: {verdict.note or difference}"
        if not reasons and self.options.gate_latency:
            with self.journal.step("measure"):
                reasons = latency.slower(analysis, changes, self.options.seed)
        for candidate, reason in reasons.items():
            self.journal.ban(candidate, reason)
        if not reasons:
            self.journal.checks += [verdict for _, verdict in verdicts]
        return bool(reasons)

    def _running(self, analysis: Analysis, changes: Sequence[Change]) -> list[Change]:
        """The approximate changes that run and keep type and shape; the others are banned."""
        with self.journal.step("verify"):
            verdicts = regions.check_regions(analysis, changes, self.options.seed)
        failed = {candidate: verdict.note for candidate, verdict in verdicts if verdict.note}
        for candidate, note in failed.items():
            self.journal.ban(candidate, f"failed verification: {note}")
        return [change for change in changes if change[0] not in failed]

    def _region_errors(self, analysis: Analysis, changes: Sequence[Change]) -> dict[str, float]:
        if self.calibration is None:
            return {}
        with self.journal.step("measure"):
            outer = [
                c for c in changes if all(analysis.is_outermost(analysis.nodes[n]) for n in c[0].site.nodes)
            ]
            return calibrate.region_errors(analysis, outer, self.calibration)

    def _commit(self, changes: Sequence[Change], errors: Mapping[str, float] | None = None) -> None:
        with self.journal.step("commit"):
            self.model = edit.apply(self.model, changes)
        exactness = {rewrite.name: rewrite.exactness for rewrite in self.options.rewrites}
        for candidate, _ in changes:
            measured = (errors or {}).get(candidate.site.nodes[0])
            self.journal.applied.append(
                Applied(candidate, exactness[candidate.rewrite], measured, not self.inputs.assumed)
            )

    def _compare(
        self, reference: ir.Model, candidate: ir.Model, inputs: Sequence[Feeds] | None = None
    ) -> Verification:
        """Compares two whole models that should be equal, if onnxruntime can run the reference.

        Args:
            reference: the model as it was.
            candidate: the model as rewritten.
            inputs: what to compare on; the run's own test inputs where None.
        """
        if reference is candidate:
            return Verification(())
        problem = self.inputs.problem
        if not problem:
            with self.journal.step("verify"):
                try:
                    return verification.check_model(
                        reference, candidate, inputs or self.inputs.feeds, self.options.outputs
                    )
                except InputError as error:
                    problem = str(error)
        return Verification((), (f"the whole model was not run, its regions were: {problem}",))

    def _quality(self) -> calibrate.Quality | None:
        if self.calibration is None or self.inputs.problem:
            return None
        with self.journal.step("measure"):
            return calibrate.quality(
                self.source.model,
                self.model,
                self.calibration,
                self.calibration.held_out,
                self.options.outputs,
            )

    # ------------------------------------------------------------ figures and report

    @cached_property
    def _spent_before(self) -> Spent:
        return Spent(self.original.totals, self.source.bytes if self.options.budget.bytes else 0)

    def _spent(self) -> Spent:
        """What the model costs by now; its bytes are counted only where the budget asks."""
        if self.model is self.source.model:
            return self._spent_before
        size = files.load(self.model).bytes if self.options.budget.bytes else 0
        return Spent(self._analysis(self.model).totals, size)

    @property
    def unknown_dims(self) -> tuple[str, ...]:
        """Sizes that nothing told."""
        if not self.inputs.assumed:
            return ()
        return Analysis(self.source.model, bindings=self.options.shapes).sizes.unknown_dims

    def _result(self, quality: calibrate.Quality | None) -> Result:
        after = self._analysis(self.model).totals
        journal = self.journal
        approximate = any(item.exactness is Exactness.APPROXIMATE for item in journal.applied)
        report = Report(
            source=self.source,
            before=self._figures(self.original.totals),
            after=self._figures(after),
            changed=self.model is not self.source.model,
            applied=tuple(journal.applied),
            declined=journal.declined,
            rejected=journal.rejected,
            checks=tuple(journal.checks),
            notes=tuple(dict.fromkeys(journal.notes)),
            quality=quality,
            unmeasured=self.calibration is None and approximate,
            uncounted_ops=self.original.uncounted_ops,
            unknown_dims=self.unknown_dims,
            observed_shapes=tuple(self._known),
            seconds=dict(journal.seconds),
            options=self.options.described(),
        )
        return Result(self.model, report)

    def _figures(self, totals: Totals) -> Totals:
        return replace(totals, macs=None) if self.inputs.assumed else totals


def _first_failing(count: int, passes: Callable[[int], bool]) -> int | None:
    """The smallest n from 1 to ``count`` for which ``passes(n)`` is false, by bisection; None if none is.

    Nothing (n = 0) passes, and what fails with n fails with more.
    """
    if count == 0 or passes(count):
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return high


def _stage(rewrite: Rewrite) -> int:
    """The group of an exact rewrite."""
    if getattr(rewrite, "goes_last", False):
        return STAGES - 1
    return 0 if getattr(rewrite, "goes_first", False) else 1 + int(getattr(rewrite, "reads_weights", False))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
