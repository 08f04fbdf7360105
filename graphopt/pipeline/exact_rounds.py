"""Exact rounds: match, plan, verify, build and commit until nothing is left, and the whole verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.errors import VerificationError
from graphopt.model import edit
from graphopt.pipeline.journal import worst
from graphopt.pipeline.run import Change, Run
from graphopt.planning import selection
from graphopt.rewrites.base import Rewrite
from graphopt.types import Exactness

MAX_ROUNDS = 20
"""Exact rounds (match, plan, commit) after which it is left at that: a choice; measured by
benchmarks.thresholds: nine architectures had as little left of the MACs after 3."""

STAGES = 4
"""Groups of exact rewrites; one is asked only when those before it find nothing: those that fold into an
operator what another would move it away from (``goes_first``), cheap ones, those that read weights
(``reads_weights``), and those that take a form which others can't read (``goes_last``)."""
CHEAP = 1
"""The last of those groups that is matched in no time."""


class Round(NamedTuple):
    """One exact round: the model before it, what it changed, and the journal's mark before it."""

    model: ir.Model
    changes: list[Change]
    mark: tuple[int, int]


def rewrite_exactly(run: Run, reference: ir.Model) -> None:
    """Exact rounds until nothing is left to do, and the whole model verified against the reference.

    A change that makes the whole model differ is found, dropped, and the rounds go on without it.

    Raises:
        VerificationError: the model differs, and no single change is guilty.
    """
    rounds: list[Round] = []
    while True:
        _rounds(run, reference, rounds)
        found = run.compare(reference, run.model)
        if found:
            run.journal.checks += found.checks
            run.journal.notes += found.notes
            return
        why = worst(found.checks).why
        if not _drop_guilty(run, reference, rounds, why):
            run.journal.checks += found.checks
            raise VerificationError(f"the rewritten model differs: {why}", run.result(None))


def _rounds(run: Run, reference: ir.Model, rounds: list[Round]) -> None:
    """Match, plan, verify, build and commit, until nothing is left to do."""
    every = run.taking_part(Exactness.EXACT)
    while len(rounds) < MAX_ROUNDS:
        analysis = run.analysis(run.model)
        changes: list[Change] = []
        mark = run.journal.mark()
        run.journal.begin_round(rewrite.name for rewrite in every)
        for stage in range(STAGES):
            group = [rewrite for rewrite in every if _stage(rewrite) == stage]
            if stage > CHEAP and not changes:  # these take a while, and mostly there is nothing left to find
                run.compare_soon(reference, run.model)
            changes = changes or _changes(run, reference, analysis, group)
        if not changes:
            return
        rounds.append(Round(run.model, changes, mark))
        run.commit(changes)
    run.journal.notes.append(f"stopped after {MAX_ROUNDS} rounds; another run may find more")


def _changes(run: Run, reference: ir.Model, analysis: Analysis, group: Sequence[Rewrite]) -> list[Change]:
    """The verified changes of one round; a change that fails is dropped, and the plan made again."""
    while True:
        candidates = run.match(analysis, group)
        totals = run.original.totals
        chosen = selection.exact(
            candidates,
            by_time=run.options.by_time,
            macs=totals.macs,
            weight_bytes=totals.weight_bytes,
        )
        run.journal.decline(chosen)
        if chosen.chosen:
            run.expect(reference)
        changes = run.build(analysis, chosen.chosen, None)
        if not run.failing(analysis, changes):
            return changes


def _drop_guilty(run: Run, reference: ir.Model, rounds: list[Round], why: str) -> bool:
    """Finds the change with which the model begins to differ, bans it, and goes back to before its round.

    Returns:
        Whether there was one.
    """
    models = [each.model for each in rounds[1:]] + [run.model]
    first = _first_failing(len(rounds), lambda n: bool(run.compare(reference, models[n - 1])))
    if first is None:
        return False
    guilty_round = rounds[first - 1]

    def passes(count: int) -> bool:
        model = edit.apply(guilty_round.model, guilty_round.changes[:count])
        return bool(run.compare(reference, model))

    number = _first_failing(len(guilty_round.changes), passes)
    if number is None:
        return False
    candidate = guilty_round.changes[number - 1][0]
    run.journal.back(guilty_round.mark)
    run.journal.ban(candidate, f"failed verification: with it the whole model differs, {why}")
    run.model = guilty_round.model
    del rounds[first - 1 :]
    return True


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
