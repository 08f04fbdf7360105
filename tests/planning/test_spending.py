"""What a budget still asks for, of models whose runs take different branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from graphopt.errors import InputError
from graphopt.planning import selection, spending
from graphopt.planning.budget import Budget
from graphopt.planning.selection import Limit
from graphopt.planning.spending import Spent
from graphopt.types import Candidate, Cost, Site, Totals

BRANCHES = {"if/then_branch": 100, "if/else_branch": 90}
"""The MACs of each branch; 10 more are in the outermost graph."""


def candidate(graph: str, saved: int, error: float = 0.1, runs: int = 1) -> Candidate:
    return Candidate("r", Site(graph, (f"{graph}/conv",)), Cost(100), Cost(100 - saved), error, runs=runs)


def dearest(chosen: Sequence[Candidate]) -> tuple[int, frozenset[str]]:
    def left(branch: str) -> int:
        return BRANCHES[branch] - sum(c.macs_saved for c in chosen if c.site.graph == branch)

    branch = max(BRANCHES, key=left)
    return 10 + BRANCHES[branch], frozenset({"main", branch})


def planned(candidates: Sequence[Candidate], macs: float) -> set[Candidate]:
    spent = Spent(Totals(110, 0, 0, 3), 0)
    limits = spending.limits(Budget(macs=macs), spent, spent, lambda c: 0, dearest)
    return set(selection.within(candidates, limits).chosen)


def test_what_one_branch_saves_does_not_make_up_for_the_other() -> None:
    then, other = candidate("if/then_branch", 60), candidate("if/else_branch", 60)
    assert planned([then, other], 50 / 110) == {then, other}


def test_a_branch_that_is_never_the_dearest_is_left() -> None:
    then, other = candidate("if/then_branch", 10), candidate("if/else_branch", 60, error=0.0)
    assert planned([then, other], 100 / 110) == {then}


def test_what_every_run_takes_counts_for_all_of_them() -> None:
    then, main = candidate("if/then_branch", 60, error=0.01), candidate("main", 60)
    assert planned([then, candidate("if/else_branch", 5), main], 50 / 110) == {main}


def test_the_largest_savings_where_one_branch_is_out_of_reach() -> None:
    then, other = candidate("if/then_branch", 60), candidate("if/else_branch", 5)
    assert planned([then, other], 50 / 110) == {then, other}


def test_a_saving_counts_as_often_as_its_graph_runs() -> None:
    often, once = candidate("main", 10, runs=6), candidate("main", 20)
    once = replace(once, site=Site("main", ("other",)))
    assert (often.macs_before, often.macs_after, often.macs_saved) == (600, 540, 60)
    assert planned([often, once], 50 / 110) == {often}


def test_nothing_is_asked_of_macs_that_are_unknown() -> None:
    known, unknown = (Spent(Totals(macs, 0, 0, 3), 0) for macs in (110, None))
    for before, run in ((unknown, dearest), (known, lambda chosen: None)):
        with pytest.raises(InputError, match="one is unknown"):
            spending.limits(Budget(macs=0.5), before, known, lambda c: 0, run)


def test_a_limit_tells_whether_a_plan_keeps_it() -> None:
    limit = Limit("macs", 60, lambda c: c.macs_saved)
    assert limit.kept([candidate("main", 60)]) and not limit.kept([candidate("main", 59)])
