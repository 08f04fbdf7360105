"""optimize(): the flow of the design, step by step."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import onnx_ir as ir

from graphopt import calibrate, edit, feeds, plan, runtime, verification
from graphopt.analysis import Analysis, Totals
from graphopt.calibrate import Calibration, Given
from graphopt.core import (
    Budget,
    Candidate,
    Exactness,
    Plan,
    Rejection,
    Replacement,
    Rewrite,
    Shape,
    Site,
    Verdict,
)
from graphopt.errors import BudgetError, InputError, VerificationError
from graphopt.feeds import TestInputs
from graphopt.lowrank import Moments
from graphopt.model import Source
from graphopt.observe import snapshot
from graphopt.report import Applied, Left, Report
from graphopt.result import Result

MAX_ROUNDS = 20
"""Exact rounds (match, plan, commit) after which it is left at that."""

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
    freeze_initializers: bool = False


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
        self.seconds: dict[str, float] = {}
        self.calibration: Calibration | None = None
        self.applied: list[Applied] = []
        self.declined: dict[tuple[str, Site], str] = {}
        self.rejected: dict[tuple[str, Site], str] = {}
        self.checks: list[Verdict] = []
        self.notes: list[str] = []
        self._banned: set[tuple[str, Site, str]] = set()
        self._known: dict[str, Shape] = {}
        with self._step("load"):
            _check_outputs(source.model, options.outputs)
            if calibration is not None:
                self.calibration = calibrate.load(calibration, source.model, options.seed)
        self.model = source.model
        with self._step("analyse"):
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
        self._exact_rounds()
        exact_model = self.model
        self._verify(self.source.model, exact_model)
        if self._approximate():
            approximate_model = self.model
            self._exact_rounds()
            self._verify(approximate_model, self.model)
        result = self._result(self._quality(exact_model))
        self._judge(result)
        return result

    def _exact_rounds(self) -> None:
        """Match, plan, verify, build and commit, until nothing is left to do."""
        cheap = [r for r in self._taking_part(Exactness.EXACT) if not getattr(r, "reads_weights", False)]
        every = self._taking_part(Exactness.EXACT)
        for _ in range(MAX_ROUNDS):
            analysis = self._analysis(self.model)
            changes: list[Change] = []
            for group in (cheap, [r for r in every if r not in cheap]):
                changes = changes or self._exact_changes(analysis, group)
            if not changes:
                return
            self._commit(analysis, changes)
        self.notes.append(f"stopped after {MAX_ROUNDS} rounds; another run may find more")

    def _exact_changes(self, analysis: Analysis, group: Sequence[Rewrite]) -> list[Change]:
        """The verified changes of one round; a change that fails is dropped, and the plan made again."""
        while True:
            candidates = self._match(analysis, group)
            chosen = plan.exact(candidates, by_time=self.options.by_time)
            self._note_declined(chosen)
            changes = self._build(analysis, chosen.chosen, None)
            failed = self._check_regions(analysis, changes)
            if not failed:
                return changes

    def _approximate(self) -> bool:
        """One plan over the model with the approximate rewrites; whether it changed anything."""
        group = self._taking_part(Exactness.APPROXIMATE)
        fixed = [r for r in group if getattr(r, "fixed", False)]
        limits = self._limits()
        if not group or (not fixed and not any(limit.needed > 0 for limit in limits)):
            return False
        analysis = self._analysis(self.model)
        moments = self._moments(analysis, group)
        if moments is not None:
            analysis = self._analysis(self.model, moments)
        candidates = self._match(analysis, fixed or group)
        if any(limit.needed > 0 for limit in limits):
            chosen = plan.within(candidates, limits)
        else:
            chosen = Plan(tuple(candidates))
        self._note_declined(chosen)
        changes = self._build(analysis, chosen.chosen, moments)
        failed = self._check_runs(analysis, changes)
        changes = [change for change in changes if change[0] not in failed]
        if changes:
            self._commit(analysis, changes, self._region_errors(analysis, changes))
        return bool(changes)

    # ------------------------------------------------------------ snapshots

    def _choose_inputs(self) -> TestInputs:
        options = self.options
        probe = Analysis(self.source.model, bindings=options.shapes, frozen=options.freeze_initializers)
        del probe  # refuses shapes that do not fit, before anything is run
        return feeds.choose(
            self.source.model, shapes=options.shapes, calibration=self.calibration, seed=options.seed
        )

    def _analysis(self, model: ir.Model, moments: Mapping[str, Moments] | None = None) -> Analysis:
        """A snapshot at the sizes of the test inputs; shapes that inference misses are seen by running."""
        return snapshot(
            model,
            bindings=self.inputs.sizes,
            known=self._known,
            frozen=self.options.freeze_initializers,
            moments=moments,
            seed=self.options.seed,
        )

    def _moments(self, analysis: Analysis, group: Sequence[Rewrite]) -> dict[str, Moments] | None:
        if self.calibration is None:
            return None
        with self._step("calibrate"):
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
        with self._step("propose"):
            candidates: list[Candidate] = []
            for rewrite in group:
                for found in rewrite.match(analysis):
                    reason = self._ruled_out(found.site)
                    if isinstance(found, Rejection) or reason:
                        text = reason or getattr(found, "reason", "")
                        self.rejected.setdefault((rewrite.name, found.site), text)
                    elif _key(found) not in self._banned:
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

    def _note_declined(self, chosen: Plan) -> None:
        for candidate, reason in chosen.declined:
            self.declined.setdefault((candidate.rewrite, candidate.site), reason)

    def _limits(self) -> list[plan.Limit]:
        """What the budget still asks for, after the exact rewrites."""
        budget, limits = self.options.budget, []
        before, now = self.original.totals, self._analysis(self.model).totals
        if budget.macs is not None:
            if before.macs is None or now.macs is None or self.inputs.assumed:
                dims = ", ".join(self.unknown_dims) or "a size"
                raise InputError(
                    f"--budget macs needs every size, and {dims} is unknown: give --shape or inputs"
                )
            limits.append(plan.Limit("macs", now.macs - budget.macs * before.macs, lambda c: c.macs_saved))
        if budget.params is not None:
            needed = now.params - budget.params * before.params
            limits.append(plan.Limit("params", needed, lambda c: c.before.params - c.after.params))
        if budget.bytes is not None:
            needed = serialized_bytes(self.model) - budget.bytes * self.source.bytes
            limits.append(plan.Limit("bytes", needed, _bytes_saved))
        return limits

    # ------------------------------------------------------------ build, verify, commit

    def _build(
        self, analysis: Analysis, chosen: Iterable[Candidate], moments: Mapping[str, Moments] | None
    ) -> list[Change]:
        with self._step("build"):
            named = {rewrite.name: rewrite for rewrite in self.options.rewrites}
            return [(c, named[c.rewrite].build(analysis, c, moments)) for c in chosen]

    def _check_regions(self, analysis: Analysis, changes: Sequence[Change]) -> set[Candidate]:
        """Compares each change alone with what it replaces; bans and returns those that differ."""
        with self._step("verify"):
            verdicts = verification.check_regions(analysis, changes, self.options.seed)
        failed = set()
        for candidate, verdict in verdicts:
            if not verdict:
                failed.add(candidate)
                self._banned.add(_key(candidate))
                why = (
                    verdict.note
                    or f"relative difference {verdict.max_rel:.1e}, allowed {verdict.allowed:.0e}"
                )
                self.declined[candidate.rewrite, candidate.site] = f"failed verification: {why}"
        if not failed:
            self.checks += [verdict for _, verdict in verdicts]
        return failed

    def _check_runs(self, analysis: Analysis, changes: Sequence[Change]) -> set[Candidate]:
        """Whether each approximate change runs and keeps type and shape; bans those that don't."""
        with self._step("verify"):
            verdicts = verification.check_regions(analysis, changes, self.options.seed)
        failed = set()
        for candidate, verdict in verdicts:
            if verdict.note:
                failed.add(candidate)
                self._banned.add(_key(candidate))
                self.declined[candidate.rewrite, candidate.site] = f"failed verification: {verdict.note}"
        return failed

    def _region_errors(self, analysis: Analysis, changes: Sequence[Change]) -> dict[str, float]:
        if self.calibration is None:
            return {}
        with self._step("measure"):
            outer = [
                c for c in changes if all(analysis.is_outermost(analysis.nodes[n]) for n in c[0].site.nodes)
            ]
            return calibrate.region_errors(analysis, outer, self.calibration)

    def _commit(
        self, analysis: Analysis, changes: Sequence[Change], errors: Mapping[str, float] | None = None
    ) -> None:
        with self._step("commit"):
            self.model = edit.apply(self.model, changes)
        for candidate, _ in changes:
            measured = (errors or {}).get(candidate.site.nodes[0])
            self.applied.append(
                Applied(candidate, self._exactness(candidate), measured, not self.inputs.assumed)
            )

    def _exactness(self, candidate: Candidate) -> Exactness:
        return next(r.exactness for r in self.options.rewrites if r.name == candidate.rewrite)

    def _verify(self, reference: ir.Model, candidate: ir.Model) -> None:
        """Compares two whole models that should be equal.

        Raises:
            VerificationError: they are not.
        """
        if reference is candidate:
            return
        if self.inputs.problem:
            self.notes.append(f"the whole model was not run, its regions were: {self.inputs.problem}")
            return
        with self._step("verify"):
            try:
                found = verification.check_model(
                    reference, candidate, self.inputs.feeds, self.options.outputs
                )
            except InputError as error:
                self.notes.append(f"the whole model was not run, its regions were: {error}")
                return
        self.checks += found.checks
        self.notes += found.notes
        if not found:
            worst = max((c for c in found.checks if not c), key=lambda c: c.max_rel)
            raise VerificationError(
                f"the rewritten model differs: {worst.note or worst}; allowed {worst.allowed:.1e}",
                self._result(None),
            )

    def _quality(self, exact_model: ir.Model) -> calibrate.Quality | None:
        if self.calibration is None or self.inputs.problem:
            return None
        with self._step("measure"):
            return calibrate.quality(
                self.source.model,
                self.model,
                self.calibration,
                self.calibration.held_out,
                self.options.outputs,
            )

    # ------------------------------------------------------------ report

    @property
    def unknown_dims(self) -> tuple[str, ...]:
        """Sizes that nothing told."""
        if not self.inputs.assumed:
            return ()
        return Analysis(self.source.model, bindings=self.options.shapes).sizes.unknown_dims

    def _result(self, quality: calibrate.Quality | None) -> Result:
        with self._step("report"):
            after = self._analysis(self.model)
            done = {(a.candidate.rewrite, a.candidate.site) for a in self.applied}
            report = Report(
                source=self.source,
                before=self._figures(self.original.totals),
                after=self._figures(after.totals),
                changed=self.model is not self.source.model,
                applied=tuple(self.applied),
                declined=_left(self.declined, done),
                rejected=_left(self.rejected, done | set(self.declined)),
                checks=tuple(self.checks),
                notes=tuple(self.notes),
                quality=quality,
                unmeasured=self.calibration is None
                and any(a.exactness is Exactness.APPROXIMATE for a in self.applied),
                uncounted_ops=self.original.uncounted_ops,
                unknown_dims=self.unknown_dims,
                observed_shapes=tuple(self._known),
                seconds=dict(self.seconds),
            )
            return Result(self.model, report)

    def _figures(self, totals: Totals) -> Totals:
        return replace(totals, macs=None) if self.inputs.assumed else totals

    def _judge(self, result: Result) -> None:
        """Raises BudgetError where a cost key of the budget is not kept."""
        missed = []
        before, after = self.original.totals, self._analysis(self.model).totals
        budget = self.options.budget
        for key, allowed, was, now in (
            ("macs", budget.macs, before.macs, after.macs),
            ("params", budget.params, before.params, after.params),
            ("bytes", budget.bytes, self.source.bytes, None),
        ):
            if allowed is None or was is None:
                continue
            reached = (serialized_bytes(self.model) if now is None else now) / max(was, 1)
            if reached > allowed:
                missed.append(f"{key} {reached:.4f} of the input's, {allowed:g} asked for")
        if missed:
            raise BudgetError(f"the budget was not reached: {'; '.join(missed)}", result)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def serialized_bytes(model: ir.Model) -> int:
    """Bytes that the model takes as a file, its external data included."""
    parts = runtime.structure(model)
    return int(parts.proto.ByteSize()) + sum(array.nbytes for array in parts.weights.values())


NODE_BYTES = 400
"""What a new operator adds to a file besides its weights, at most about."""


def _bytes_saved(candidate: Candidate) -> float:
    made = sum(1 for key in ("rank_in", "rank_out") if candidate.choice.get(key))
    return candidate.before.weight_bytes - candidate.after.weight_bytes - NODE_BYTES * made


def _key(candidate: Candidate) -> tuple[str, Site, str]:
    return candidate.rewrite, candidate.site, repr(sorted(candidate.choice.items()))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _left(reasons: Mapping[tuple[str, Site], str], done: set[tuple[str, Site]]) -> tuple[Left, ...]:
    return tuple(
        Left(rewrite, site, why) for (rewrite, site), why in reasons.items() if (rewrite, site) not in done
    )


def _check_outputs(model: ir.Model, names: Iterable[str]) -> None:
    present = [value.name for value in model.graph.outputs]
    for name in names:
        if name not in present:
            raise InputError(f"--output {name}: the model's outputs are {', '.join(str(p) for p in present)}")
