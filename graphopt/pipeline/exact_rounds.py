"""Exact rounds: match, plan, verify, build and commit until nothing is left, and the whole verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.fusions.fused import Fusions
from graphopt.analysis.snapshot import Analysis
from graphopt.analysis.time_model import SECONDS_PER_CALL
from graphopt.errors import VerificationError
from graphopt.model import edit
from graphopt.pipeline import sharing
from graphopt.pipeline.changes import Changes, Proposals
from graphopt.pipeline.journal import Journal, worst
from graphopt.pipeline.workspace import Workspace
from graphopt.planning import selection
from graphopt.planning.selection import Plan, Terms
from graphopt.report.wording import numbered
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.types import Candidate, Change
from graphopt.verification.background import Comparer

MAX_ROUNDS = 20
"""Exact rounds (match, plan, commit) after which it is left at that. Measured by benchmarks.thresholds: nine
architectures had as little left of the MACs after 3."""


class Round(NamedTuple):
    """One exact round: the model before it, what it changed, and the journal's mark before it."""

    model: ir.Model
    changes: list[Change]
    mark: tuple[int, int]


@dataclass(frozen=True)
class ExactRounds:
    """Exact rounds over a model; ``by_time`` leaves out candidates that are expected to be slower."""

    workspace: Workspace
    proposals: Proposals
    changes: Changes
    comparer: Comparer
    journal: Journal
    by_time: bool

    def rewrite(self, reference: ir.Model, *, final: bool = True, verified: bool = False) -> None:
        """Rounds until nothing is left to do, and the whole model verified against the reference.

        A change that makes the whole model differ is found, dropped, and the rounds go on without it.

        Args:
            reference: what the model has to be equal to.
            final: whether rewrites of the final stage take part; not where an approximate plan follows.
            verified: whether the model as it is has been verified: it is not again if nothing changes.

        Raises:
            VerificationError: the model differs, and no single change is guilty.
        """
        rounds: list[Round] = []
        while True:
            self._rounds(reference, rounds, final=final)
            if verified and not rounds:
                return
            found = self.comparer.compare(reference, self.workspace.model)
            if found:
                self.journal.compared(found)
                return
            why = worst(found.checks).why
            if not self._drop_guilty(reference, rounds, why):
                self.journal.checks += found.checks
                raise VerificationError(f"the rewritten model differs: {why}")

    def _rounds(self, reference: ir.Model, rounds: list[Round], *, final: bool) -> None:
        """Match, plan, verify, build and commit, until nothing is left to do."""
        every = [each for each in self.proposals.exact if final or each.stage is not Stage.FINAL]
        while len(rounds) < MAX_ROUNDS:
            model = self.workspace.model
            analysis = self.workspace.analysis(model)
            changes: list[Change] = []
            mark = self.journal.mark()
            self.journal.begin_round(rewrite.name for rewrite in every)
            for stage in Stage:
                group = [rewrite for rewrite in every if rewrite.stage is stage]
                slow = stage in (Stage.WEIGHTS, Stage.LAST, Stage.FINAL)
                if slow and not changes:  # these take a while, and mostly nothing is left to find
                    self.comparer.begin(reference, model)
                changes = changes or self._verified(reference, analysis, group)
            if not changes:
                return
            rounds.append(Round(model, changes, mark))
            self.changes.commit(changes)
        self.journal.notes.append(f"stopped after {MAX_ROUNDS} rounds; another run may find more")

    def _verified(
        self, reference: ir.Model, analysis: Analysis, group: Sequence[ExactRewrite]
    ) -> list[Change]:
        """The verified changes of one round; a change that fails is dropped, and the plan made again."""
        costly: dict[Candidate, str] = {}
        while True:
            found = self.proposals.match(analysis, group)
            costly |= self._unfusing(analysis, found)
            candidates = [c for c in found if c not in costly]
            chosen = selection.exact(candidates, self._terms(analysis))
            self.journal.decline(Plan(chosen.chosen, (*costly.items(), *chosen.declined)))
            if chosen.chosen:
                self.comparer.expect(reference)
            changes = self.changes.build(analysis, chosen.chosen)
            if len(changes) < len(chosen.chosen):
                continue
            dear = self._slower(analysis, changes) | self._swelling(analysis, changes)
            costly |= dear
            if dear:
                continue
            if not self.changes.failing(analysis, changes):
                return changes

    def _unfusing(self, analysis: Analysis, candidates: Sequence[Candidate]) -> dict[Candidate, str]:
        """The candidates that take away a part of what onnxruntime runs as one kernel, with the reason."""
        if not self.by_time:
            return {}
        fusions, found = analysis.cached(Fusions), dict[Candidate, str]()
        for candidate in candidates:
            fused = fusions.broken(analysis.nodes[name] for name in candidate.site.nodes)
            if fused is not None:
                others = numbered(len(fused.nodes) - 1, "other operator")
                found[candidate] = (
                    f"onnxruntime runs {analysis.name(fused.nodes[0])} and {others} as one kernel "
                    f"({fused.kernel}), which it would break: the aim macs takes it"
                )
        return found

    def _slower(self, analysis: Analysis, changes: Sequence[Change]) -> dict[Candidate, str]:
        """The changes whose operators take longer to call than what they replace takes, with the reason."""
        if not self.by_time:
            return {}
        fused = {
            rewrite.name for rewrite in self.proposals.exact if rewrite.time_alone
        }  # fewer calls than nodes
        timed = (change for change in changes if change.candidate.before.seconds)  # others tell no times
        timed = (change for change in timed if change.candidate.rewrite not in fused)
        called = {change.candidate: SECONDS_PER_CALL * _calls(analysis, change) for change in timed}
        return {
            candidate: selection.slower(candidate, seconds)
            for candidate, seconds in called.items()
            if seconds > max(candidate.before.seconds, candidate.after.seconds)
        }

    def _swelling(self, analysis: Analysis, changes: Sequence[Change]) -> dict[Candidate, str]:
        """The changes by which the model would grow for too little, with the reason."""
        terms, found = self._terms(analysis), dict[Candidate, str]()
        for group in sharing.copying(analysis, changes):
            reason = selection.copies_too_much(group.grown, group.macs_saved, terms, partly=group.partly)
            found |= dict.fromkeys((change.candidate for change in group.changes if reason), reason)
        wider = sharing.widening(analysis, [change for change in changes if change.candidate not in found])
        if wider is not None:
            reason = selection.widens_too_much(wider.grown, wider.macs_saved, terms)
            found |= dict.fromkeys((change.candidate for change in wider.changes if reason), reason)
        return found

    def _terms(self, analysis: Analysis) -> Terms:
        return Terms(self.by_time, analysis.totals.macs, analysis.totals.weight_bytes)

    def _drop_guilty(self, reference: ir.Model, rounds: list[Round], why: str) -> bool:
        """Finds the change with which the model begins to differ, bans it, and goes back to before its round.

        Returns:
            Whether there was one.
        """
        models = [each.model for each in rounds[1:]] + [self.workspace.model]

        def equal(model: ir.Model) -> bool:
            return bool(self.comparer.compare(reference, model))

        first = first_failing(len(rounds), lambda n: equal(models[n - 1]))
        if first is None:
            return False
        guilty = rounds[first - 1]
        number = first_failing(
            len(guilty.changes), lambda n: equal(edit.apply(guilty.model, guilty.changes[:n]))
        )
        if number is None:
            return False
        self.journal.back(guilty.mark)
        self.journal.ban(
            guilty.changes[number - 1].candidate,
            f"failed verification: with it the whole model differs, {why}",
        )
        self.workspace.model = guilty.model
        del rounds[first - 1 :]
        return True


def _calls(analysis: Analysis, change: Change) -> int:
    """How many operators a replacement has that work on more than constants."""
    nodes = [analysis.nodes[name] for name in change.candidate.site.nodes]
    read = [value for node in nodes for value in node.inputs if value is not None]
    fixed = {value.name for value in read if analysis.constants.is_constant(value)}
    fixed |= {None, "", *change.replacement.constants}
    calls = 0
    for node in change.replacement.nodes:
        if fixed.issuperset(node.inputs):
            fixed |= set(node.outputs)
        else:
            calls += 1
    return calls


def first_failing(count: int, passes: Callable[[int], bool]) -> int | None:
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
