"""Plans: what is chosen among candidates, against trying every choice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.planning import selection
from graphopt.planning.damage import unprobed
from graphopt.planning.selection import Terms
from graphopt.types import Candidate, Cost, Site

WHOLE = 1000
"""MACs and parameters of every operator before it is rewritten."""


def candidate(
    *nodes: str, macs: int = 0, params: int = 0, error: float = 0.0, rewrite: str = "r"
) -> Candidate:
    """A candidate that saves so many MACs and parameters."""
    before, after = Cost(WHOLE, WHOLE), Cost(WHOLE - macs, WHOLE - params)
    return Candidate(rewrite, Site("main", nodes), before, after, error, {"macs": macs, "params": params})


def saved_params(each: Candidate) -> int:
    return each.before.params - each.after.params


def limits(macs: float = 0, params: float = 0) -> list[selection.Limit]:
    return [
        selection.Limit("macs", macs, lambda each: each.macs_saved),
        selection.Limit("params", params, saved_params),
    ]


def kept(chosen: Sequence[Candidate], wanted: Sequence[selection.Limit]) -> bool:
    return all(sum(map(limit.saving, chosen)) >= limit.needed * (1 - 1e-9) for limit in wanted)


def flat(sites: Sequence[Sequence[Candidate]]) -> list[Candidate]:
    return [each for site in sites for each in site]


def damage(chosen: Sequence[Candidate]) -> float:
    return sum(unprobed(each.error) for each in chosen)


def best(sites: Sequence[Sequence[Candidate]], wanted: Sequence[selection.Limit]) -> float | None:
    """The least damage of any choice that keeps the limits; None where none does."""
    every = ([each for each in choice if each] for choice in itertools.product(*([None, *s] for s in sites)))
    return min((damage(chosen) for chosen in every if kept(chosen, wanted)), default=None)


# --- exact rewrites -----------------------------------------------------------------------------------------


def test_exact_takes_all_that_do_not_conflict() -> None:
    candidates = [candidate("a", "b", macs=3), candidate("c", macs=1), candidate("d", macs=0)]
    assert set(selection.exact(candidates, Terms(by_time=False)).chosen) == set(candidates)


def test_exact_prefers_the_larger_saving_and_says_what_came_first() -> None:
    small, large = candidate("a", "b", macs=3, rewrite="small"), candidate("b", "c", macs=5, rewrite="large")
    alone = candidate("a", macs=1, rewrite="alone")
    found = selection.exact([small, alone, large], Terms(by_time=False))
    assert found.chosen == (large, alone)
    assert [(c, why) for c, why in found.declined] == [(small, "large at b comes first")]


def test_exact_prefers_more_nodes_where_savings_are_equal() -> None:
    short, long = candidate("a", "b"), candidate("a", "b", "c")
    assert selection.exact([short, long], Terms(by_time=False)).chosen == (long,)


def test_nodes_of_the_same_name_in_another_graph_do_not_conflict() -> None:
    inner = Candidate("r", Site("if/then_branch", ("a",)), Cost(2), Cost(1))
    assert len(selection.exact([candidate("a"), inner], Terms(by_time=False)).chosen) == 2


def test_what_is_expected_to_be_slower_is_taken_for_macs_alone() -> None:
    slow = Candidate("r", Site("main", ("a",)), Cost(10, seconds=1e-6), Cost(5, seconds=2e-6))
    assert selection.exact([slow], Terms(by_time=False)).chosen == (slow,)
    found = selection.exact([slow], Terms(by_time=True))
    assert found.chosen == ()
    assert "slower" in found.declined[0][1] and "aim macs" in found.declined[0][1]


def test_what_is_declined_for_its_time_blocks_nobody() -> None:
    slow = Candidate("slow", Site("main", ("a", "b")), Cost(10, seconds=1e-6), Cost(1, seconds=2e-6))
    fast = candidate("b", macs=1)
    assert selection.exact([slow, fast], Terms(by_time=True)).chosen == (fast,)


# --- under a budget -----------------------------------------------------------------------------------------


def test_damage_of_several_sites_adds_up() -> None:
    assert unprobed(0.0) == 0.0
    both = 1 - (1 - 0.2) * (1 - 0.3)
    assert unprobed(0.2) + unprobed(0.3) == pytest.approx(unprobed(both))
    assert math.isfinite(unprobed(1.0)) and math.isfinite(unprobed(7.0))


def test_nothing_is_chosen_without_need() -> None:
    found = selection.within([candidate("a", macs=5, error=0.1)], limits())
    assert found.chosen == ()
    assert found.declined[0][1] == "the budget is reached with less damage elsewhere"


def test_no_candidates() -> None:
    assert selection.within([], limits(macs=5)).chosen == ()


def test_the_largest_savings_where_the_budget_is_out_of_reach() -> None:
    small, large = candidate("a", macs=2, error=0.0), candidate("a", macs=5, error=0.9)
    assert selection.within([small, large], limits(macs=50)).chosen == (large,)


def test_a_sum_that_only_rounding_keeps_from_being_enough() -> None:
    cheap = [candidate("abc"[i], macs=m, error=0.1) for i, m in enumerate((7, 2, 1))]
    dear = candidate("d", macs=10, error=0.9)
    assert set(selection.within([*cheap, dear], limits(macs=10)).chosen) == set(cheap)


def test_candidates_that_share_a_node_exclude_each_other() -> None:
    first, second = candidate("a", macs=4, error=0.1), candidate("b", macs=4, error=0.1)
    across, large = candidate("a", "b", macs=6, error=0.1), candidate("b", macs=9, error=0.1)
    for order in itertools.permutations([first, second, across, large]):
        found = selection.within(order, limits(macs=6)).chosen
        assert kept(found, limits(macs=6))
        most = selection.within(order, limits(macs=9)).chosen
        assert large in most
        for chosen in (found, most):
            names = [node for each in chosen for node in each.site.nodes]
            assert len(names) == len(set(names))


@st.composite
def instances(draw: st.DrawFn) -> list[list[Candidate]]:
    """Sites with a few ways each, of any saving and damage."""
    way = st.tuples(st.integers(0, 100), st.integers(0, 100), st.floats(0, 0.99))
    sites = draw(st.lists(st.lists(way, min_size=1, max_size=4), min_size=1, max_size=5))
    return [[candidate(f"n{i}", macs=m, params=p, error=e) for m, p, e in s] for i, s in enumerate(sites)]


@st.composite
def low_rank(draw: st.DrawFn) -> list[list[Candidate]]:
    """Sites as the bottleneck has them: damage grows faster and faster with what is saved."""
    sites = []
    for i in range(draw(st.integers(2, 4))):
        size, worst = draw(st.integers(10, 100)), draw(st.floats(0.05, 0.9))
        power, dense = draw(st.floats(1.2, 3)), draw(st.floats(0.6, 1.4))
        savings = [(p, int(size * p), int(size * p * dense)) for p in (step / 8 for step in range(1, 8))]
        sites.append([candidate(f"n{i}", macs=m, params=n, error=worst * p**power) for p, m, n in savings])
    return sites


def check(
    found: selection.Plan, sites: Sequence[Sequence[Candidate]], wanted: Sequence[selection.Limit]
) -> float | None:
    """At most one candidate a site; the limits are kept if they can be. Returns the least damage."""
    assert all(sum(each in site for each in found.chosen) <= 1 for site in sites)
    assert all(any(each in site for site in sites) for each in found.chosen)
    least = best(sites, wanted)
    assert (least is not None) == kept(found.chosen, wanted)
    return least


def spanning(macs: int, error: float, anchor: str, *beside: str) -> Candidate:
    """A candidate that makes other operators cheaper too, which then stay as they are."""
    return replace(candidate(anchor, macs=macs, error=error, rewrite="wide"), beside=beside)


def go_together(chosen: Sequence[Candidate]) -> bool:
    """Whether each operator is changed once at most, and those that have to stay are not."""
    taken = [each.site.nodes[0] for each in chosen]
    return len(taken) == len(set(taken)) and not any(name in taken for each in chosen for name in each.beside)


def test_a_candidate_over_several_operators_is_taken_where_it_does_less_damage_than_they_do() -> None:
    alone = [
        candidate("a", macs=300, error=0.2),
        candidate("b", macs=300, error=0.2),
        candidate("c", macs=300),
    ]
    wide = spanning(600, 0.1, "b", "a", "act")
    found = selection.within([*alone, wide], limits(macs=600)).chosen
    assert wide in found and not {alone[0], alone[1]}.intersection(found)
    dear = spanning(600, 0.9, "b", "a", "act")
    assert dear not in selection.within([*alone, dear], limits(macs=900)).chosen


@settings(max_examples=150, deadline=None)
@given(instances(), st.data(), st.floats(0.05, 1))
def test_what_a_candidate_stands_beside_stays_as_it_is(
    sites: list[list[Candidate]], data: st.DataObject, part: float
) -> None:
    names = [site[0].site.nodes[0] for site in sites]
    wide = [
        spanning(data.draw(st.integers(1, WHOLE)), data.draw(st.floats(0, 0.9)), after, before)
        for before, after in itertools.pairwise(names)
    ]
    wanted = limits(macs=part * sum(max(each.macs_saved for each in site) for site in sites))
    chosen = selection.within([*flat(sites), *wide], wanted).chosen
    assert go_together(chosen)
    every = (
        [each for each in choice if each]
        for choice in itertools.product(*([None, *site] for site in sites), *([None, each] for each in wide))
    )
    least = min(damage(choice) for choice in every if go_together(choice) and kept(choice, wanted))
    largest = max(unprobed(each.error) for each in (*flat(sites), *wide))
    assert kept(chosen, wanted)
    assert damage(chosen) <= least + 2 * largest + 1e-9


@settings(max_examples=150, deadline=None)
@given(instances(), st.floats(0.05, 1))
def test_one_limit_against_every_choice(sites: list[list[Candidate]], part: float) -> None:
    total = sum(max(each.macs_saved for each in site) for site in sites)
    wanted = limits(macs=part * total)
    found = selection.within(flat(sites), wanted)
    least = check(found, sites, wanted)
    largest = max(unprobed(each.error) for each in flat(sites))
    assert least is not None and damage(found.chosen) <= least + largest + 1e-9


def test_damage_is_near_the_least_for_low_rank_sites() -> None:
    random, excess = np.random.default_rng(0), []
    for _ in range(80):
        sites = []
        for i in range(random.integers(2, 5)):
            size, worst, power = random.integers(10, 101), random.uniform(0.05, 0.9), random.uniform(1.2, 3)
            parts = np.arange(1, 8) / 8
            sites.append([candidate(f"n{i}", macs=int(size * p), error=worst * p**power) for p in parts])
        total = sum(max(each.macs_saved for each in site) for site in sites)
        wanted = limits(macs=random.uniform(0.1, 0.8) * total)
        found = selection.within(flat(sites), wanted)
        least = check(found, sites, wanted)
        assert least is not None
        excess.append(damage(found.chosen) / least)
    assert min(excess) > 1 - 1e-9
    assert np.median(excess) < 1.01 and np.mean(excess) < 1.06 and max(excess) < 2


@settings(max_examples=100, deadline=None)
@given(low_rank(), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_two_limits_at_once(sites: list[list[Candidate]], macs: float, params: float) -> None:
    most_macs = sum(max(each.macs_saved for each in site) for site in sites)
    most_params = sum(max(map(saved_params, site)) for site in sites)
    wanted = limits(macs * most_macs, params * most_params)
    check(selection.within(flat(sites), wanted), sites, wanted)


@pytest.mark.parametrize(
    ("savings", "needed"),
    [
        # The largest sum of both savings misses one limit.
        ([[(90, 0), (40, 40)], [(90, 0), (40, 40)]], (70, 70)),
        ([[(99, 0), (10, 10)], [(99, 0), (10, 10)], [(99, 0), (10, 10)]], (30, 30)),
        # No weight between the limits leads to the only choice that keeps both.
        ([[(5, 2), (9, 0)], [(0, 12), (10, 5)]], (11, 6)),
        ([[(6, 5), (5, 10)], [(6, 12), (11, 2)]], (12, 16)),
    ],
)
def test_two_limits_that_pull_apart(savings: list[list[tuple[int, int]]], needed: tuple[int, int]) -> None:
    wanted = limits(*needed)
    sites = [[candidate(f"n{i}", macs=m, params=p, error=0.1) for m, p in s] for i, s in enumerate(savings)]
    assert check(selection.within(flat(sites), wanted), sites, wanted) is not None


def test_of_equal_damage_that_is_taken_which_saves_no_more_than_is_asked() -> None:
    sites = [[candidate(name, macs=macs, error=0.1) for macs in (30, 60, 90)] for name in "ab"]
    for needed, saved in ((25, 30), (60, 60), (95, 120)):
        plan = selection.within(
            flat(sites), limits(macs=needed), lambda each: 1.0 if each.macs_saved else 0.0
        )
        assert needed <= sum(each.macs_saved for each in plan.chosen) <= saved


def test_the_plan_does_not_depend_on_the_order() -> None:
    sites = [[candidate(f"n{i}", macs=m, error=m / (40 + 9 * i)) for m in (5, 10, 20)] for i in range(4)]
    expected = set(selection.within(flat(sites), limits(macs=31)).chosen)
    assert set(selection.within(flat(sites)[::-1], limits(macs=31)).chosen) == expected


# --- by time ------------------------------------------------------------------------------------------------


def timed(node: str, macs: int, error: float, seconds: float) -> Candidate:
    """A candidate of an operator of a second that takes so many."""
    found = candidate(node, macs=macs, error=error)
    before, after = (replace(c, seconds=s) for c, s in ((found.before, 1.0), (found.after, seconds)))
    return replace(found, before=before, after=after)


@pytest.mark.parametrize(("error", "faster"), [(0.0104, True), (0.013, False)])
def test_of_plans_of_nearly_equal_damage_the_faster_one_is_taken(error: float, faster: bool) -> None:
    slow, fast = timed("a", 500, 0.01, 1.2), timed("a", 500, error, 0.6)
    wanted = limits(macs=500)
    assert selection.within([slow, fast], wanted).chosen == (slow,)
    assert selection.swift([slow, fast], wanted).chosen == ((fast,) if faster else (slow,))


def test_a_plan_by_time_keeps_its_limits() -> None:
    few = [timed(node, 300, 0.01, 0.2) for node in "ab"]
    many = [timed(node, 600, 0.0101, 1.3) for node in "ab"]
    wanted = limits(macs=900)
    plan = selection.swift([*few, *many], wanted).chosen
    assert kept(plan, wanted) and len(plan) == 2
    assert sum(each.seconds_saved for each in plan) == pytest.approx(0.5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.001, 0.4), st.floats(0.1, 2)), min_size=1, max_size=8)
)
def test_a_plan_by_time_is_hardly_more_damaging(
    found: list[tuple[int, float, float]],
) -> None:
    every = [timed(f"n{i // 2}", 100 * macs, *rest) for i, (macs, *rest) in enumerate(found)]
    wanted = limits(macs=0.4 * sum(each.macs_saved for each in every))
    plain, swift = (plan(every, wanted).chosen for plan in (selection.within, selection.swift))
    assert damage(swift) <= selection.ALIKE * damage(plain) + 1e-12
    assert kept(swift, wanted) == kept(plain, wanted)
