"""Chooses among candidates; never sees a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from graphopt.planning.damage import unprobed
from graphopt.types import Candidate, Site

ROUNDING = 1e-12
"""What a sum of savings may miss: parts of 0.7, 0.2 and 0.1 are one. Derived: 4,500 float64 of at most 1 are
summed up to this (n·eps)."""
MUCH = 0.05
"""Part of the model's bytes that is much to grow by, and of its MACs that is little to save; measured by
benchmarks.thresholds: any value from 0.005 to 0.5 gives the same on nine architectures."""
WEIGHTS = 1e-9, 1e15
"""Between these the weight of savings against damage is looked for. Derived: savings are parts of what is
needed, damages at most −log(1 − `damage.LARGEST_ERROR`) = 21; with 1e15 the largest saving wins, with 1e-9
none that does damage to speak of."""
HALVINGS = 100
"""Of the decades between them: derived, 24 / 2ⁿ decades are below a float64's step from n = 58 on; more
change nothing."""


ALIKE = 1.05
"""Times the least damage up to which a plan counts as no worse: derived, 0.2 dB of what is predicted; by
benchmarks.thresholds four seeds alone lie 1 dB apart."""
PRICES = 1e-3, 1e3
"""Between these, in damages of the plan for all its time, the price of time is looked for. Derived: at the
lowest all the time that there is weighs a thousandth of the damage, which `ALIKE` does not tell; at the
highest a thousandth of the time weighs as much as the damage."""
STEPS = 8
"""Halvings of the decades between them: derived, to 6 / 2⁸ decades, 6 % of a price."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What exact candidates have to do to be taken.

    Attributes:
        by_time: leave out those that the static time model expects to be slower, and those that make the
            model grow by much to save little.
        macs: of the whole model, where known.
        weight_bytes: of the whole model.
    """

    by_time: bool
    macs: int | None = None
    weight_bytes: int = 0

    def is_much(self, grown: int) -> bool:
        """Whether so many bytes of weights are much to grow by."""
        return self.by_time and grown > MUCH * self.weight_bytes

    @property
    def little(self) -> float:
        """MACs below which a saving is little; 0 where the model's are not known."""
        return MUCH * (self.macs or 0)


def exact(candidates: Sequence[Candidate], terms: Terms) -> Plan:
    """Takes every exact candidate that pays, the largest saving first, each node at most once.

    Args:
        candidates: exact candidates.
        terms: what they have to do.

    Returns:
        The chosen candidates, and the declined ones with their reasons.
    """
    chosen: list[Candidate] = []
    declined: list[tuple[Candidate, str]] = []
    taken: dict[tuple[str, str], Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (-c.macs_saved, -len(c.site.nodes))):
        keys = _nodes(candidate)
        rival = next((taken[key] for key in keys if key in taken), None)
        grown = candidate.after.weight_bytes - candidate.before.weight_bytes
        if terms.by_time and candidate.after.seconds > candidate.before.seconds:
            declined.append((candidate, slower(candidate, candidate.after.seconds)))
        elif terms.is_much(grown) and terms.weight_bytes and candidate.macs_saved < terms.little > 0:
            if candidate.macs_saved > 0:
                saved = f"{candidate.macs_saved:,} MACs; the aim macs takes it"
            else:
                saved = "time alone"
            declined.append((candidate, f"it would add {grown:,} bytes to save {saved}"))
        elif rival is not None:
            declined.append((candidate, f"{rival.rewrite} at {rival.site.nodes[0]} comes first"))
        else:
            chosen.append(candidate)
            taken.update(dict.fromkeys(keys, candidate))
    return Plan(tuple(chosen), tuple(declined))


def copies_too_much(grown: int, saved: int, terms: Terms, *, partly: bool) -> str:
    """Why kernels that several operators share are not replaced by copies; "" where that pays.

    They are rewritten for all that read them, and by time so that little is added; else where the copies save
    `MUCH` of the MACs, by MACs alone any.

    Args:
        grown: bytes of weights that the copies add, less those of what nothing reads any more.
        saved: MACs that they save.
        terms: what exact candidates have to do.
        partly: whether a kernel stays for others that read it.

    Returns:
        The reason, or "".
    """
    enough = terms.little if terms.by_time else 1
    if grown <= 0 or saved >= enough > 0 or not (partly or terms.is_much(grown)):
        return ""
    aim = "; the aim macs takes it" if terms.by_time and (saved > 0 or not partly) else ""
    return f"its weights are shared: copies would add {grown:,} bytes to save {saved:,} MACs{aim}"


def widens_too_much(grown: int, saved: int, terms: Terms) -> str:
    """Why weights that are computed from fewer bytes are not stored as they are computed; "" where that pays.

    Args:
        grown: bytes that all such weights of a round add.
        saved: MACs that they save.
        terms: what exact candidates have to do.

    Returns:
        The reason, or "".
    """
    if not terms.is_much(grown) or saved >= terms.little > 0:
        return ""
    return (
        f"its weights are stored in fewer bytes than they are computed in: with all such ones the model "
        f"would grow by {grown:,} bytes to save {saved:,} MACs; the aim macs takes it"
    )


def slower(candidate: Candidate, seconds: float) -> str:
    """Why a candidate that is expected to take so many seconds is left out."""
    before, after = candidate.before.seconds * 1e6, seconds * 1e6
    return f"expected to be slower ({before:.0f} → {after:.0f} µs): the aim macs takes it"


@dataclass(frozen=True, slots=True)
class Limit:
    """One cost key of a budget.

    Attributes:
        key: its name, such as ``macs``.
        needed: how much still has to be saved, in the key's unit.
        saving: what a candidate saves, in the same unit.
        dearest: this limit for that run of the model which is the dearest with a plan, where runs differ;
            None where they do not.
    """

    key: str
    needed: float
    saving: Callable[[Candidate], float]
    dearest: Callable[[Sequence[Candidate]], Limit] | None = field(default=None, compare=False)

    def kept(self, chosen: Sequence[Candidate]) -> bool:
        """Whether a plan saves what is needed."""
        return sum(map(self.saving, chosen)) >= self.needed * (1 - ROUNDING)


@dataclass(frozen=True, slots=True)
class _Option:
    """One candidate of a site, or leaving the site as it is (candidate None).

    Attributes:
        candidate: the candidate.
        saved: its part of what each limit needs.
        damage: what it adds to the plan's damage.
        covers: the other sites that have to stay as they are, by number.
    """

    candidate: Candidate | None
    saved: tuple[float, ...]
    damage: float
    covers: tuple[int, ...] = ()


def within(
    candidates: Sequence[Candidate],
    limits: Sequence[Limit],
    damage: Callable[[Candidate], float] = lambda candidate: unprobed(candidate.error),
) -> Plan:
    """The least damaging choice of at most one candidate a site that keeps all limits.

    A Lagrange multiplier weighs damage against saving, found by bisection; what is left over is then filled
    greedily (Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"). Where
    even the largest savings are not enough, those are chosen. A run of the model with which the plan does not
    keep a limit, since it takes other branches, becomes a limit too, and the plan is made again.

    Args:
        candidates: approximate candidates; those that share a node stand for the same site.
        limits: what has to be saved; those that need nothing are ignored.
        damage: what a candidate costs the network's quality; that of several adds up.

    Returns:
        The chosen candidates, and the declined ones with their reasons.
    """
    open_limits = [limit for limit in limits if limit.needed > 0]
    while True:
        plan = _within(candidates, open_limits, damage)
        others = [limit.dearest(plan.chosen) for limit in open_limits if limit.dearest is not None]
        missed = [each for each in others if each not in open_limits and not each.kept(plan.chosen)]
        if not missed:
            return plan
        open_limits.append(missed[0])


def swift(
    candidates: Sequence[Candidate],
    limits: Sequence[Limit],
    damage: Callable[[Candidate], float] = lambda candidate: unprobed(candidate.error),
) -> Plan:
    """Of the plans that keep all limits at nearly the least damage, the one that is expected to be fastest.

    MACs that a form saves may cost time. So the time that candidates are expected to take gets a price, the
    highest at which the plan's damage stays within `ALIKE` times the least.

    Args:
        candidates: approximate candidates, see `within`.
        limits: what has to be saved.
        damage: what a candidate costs the network's quality.

    Returns:
        The plan, see `within`.
    """
    found = within(candidates, limits, damage)
    least, time = sum(map(damage, found.chosen)), sum(c.before.seconds * c.runs for c in found.chosen)
    if not least or not time:
        return found

    def priced(price: float) -> Plan:
        unit = price * least / time
        return within(candidates, limits, lambda c: damage(c) - unit * c.seconds_saved)

    low, high = PRICES
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        plan = priced(middle)
        if sum(map(damage, plan.chosen)) <= ALIKE * least and all(each.kept(plan.chosen) for each in limits):
            found, low = plan, middle
        else:
            high = middle
    return found


def _within(
    candidates: Sequence[Candidate], open_limits: Sequence[Limit], damage: Callable[[Candidate], float]
) -> Plan:
    """The choice that `within` makes for limits that need something."""
    sites = _by_site(candidates)
    place = {key: number for number, group in enumerate(sites) for c in group for key in _nodes(c)}

    def option(candidate: Candidate) -> _Option:
        saved = tuple(limit.saving(candidate) / limit.needed for limit in open_limits)
        beside = {place.get((candidate.site.graph, node)) for node in candidate.beside}
        own = place[_nodes(candidate)[0]]
        covers = sorted(number for number in beside if number is not None and number != own)
        return _Option(candidate, saved, damage(candidate), tuple(covers))

    nothing = _Option(None, (0.0,) * len(open_limits), 0.0)
    groups = [[nothing, *map(option, group)] for group in sites]
    picks = _lagrange(groups)
    _repair(groups, picks)
    _refine(groups, picks)
    chosen = [
        c for group, pick in zip(groups, picks, strict=True) if (c := group[pick].candidate) is not None
    ]
    taken = {c.site for c in chosen}
    untouched = [group[1].candidate for group in groups if len(group) > 1 and not _took(group, taken)]
    reason = "the budget is reached with less damage elsewhere"
    return Plan(tuple(chosen), tuple((c, reason) for c in untouched if c is not None))


def compatible(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates in their order, without those at nodes that one before them changes."""
    chosen: list[Candidate] = []
    taken: set[tuple[str, str]] = set()
    for candidate in candidates:
        nodes = {*_nodes(candidate), *((candidate.site.graph, node) for node in candidate.beside)}
        if taken.isdisjoint(nodes):
            chosen.append(candidate)
            taken |= nodes
    return tuple(chosen)


def _took(group: Sequence[_Option], taken: set[Site]) -> bool:
    return any(option.candidate is not None and option.candidate.site in taken for option in group)


def _by_site(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates that share a node, directly or through others, together, in the order of their first."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        keys = _nodes(candidate)
        near = list({id(found): found for key in keys if (found := groups.get(key))}.values())
        group = near[0] if near else []
        for other in near[1:]:
            group += other
            groups.update((key, group) for each in other for key in _nodes(each))
        group.append(candidate)
        groups.update(dict.fromkeys(keys, group))
    return list({id(group): group for group in groups.values()}.values())


def _nodes(candidate: Candidate) -> list[tuple[str, str]]:
    return [(candidate.site.graph, node) for node in candidate.site.nodes]


def _lagrange(groups: Sequence[Sequence[_Option]]) -> list[int]:
    """Of each site the option of least damage less weighed savings, by the least weight that is enough."""
    shape = len(groups), max(map(len, groups), default=1)
    damage, saved, spans = np.full(shape, math.inf), np.zeros(shape), np.zeros(shape, bool)
    for i, group in enumerate(groups):
        damage[i, : len(group)] = [option.damage for option in group]
        saved[i, : len(group)] = [sum(option.saved) for option in group]
        spans[i, : len(group)] = [bool(option.covers) for option in group]
    alone, wide = np.where(spans, math.inf, damage), np.where(spans, damage, math.inf)
    wide[:, 0] = damage[:, 0]

    def pick(weight: float) -> list[int]:
        gained = weight * saved

        def score(i: int, number: int) -> float:
            return float(damage[i, number] - gained[i, number])

        picks, others = ([int(n) for n in (table - gained).argmin(axis=1)] for table in (alone, wide))
        gains = sorted(
            (score(i, number) - sum(score(j, picks[j]) for j in (i, *groups[i][number].covers)), i)
            for i, number in enumerate(others)
            if number
        )
        locked: set[int] = set()
        for gain, i in gains:
            covers = groups[i][others[i]].covers
            if gain < 0 and locked.isdisjoint((i, *covers)):
                locked.update((i, *covers))
                picks[i] = others[i]
                for j in covers:
                    picks[j] = 0
        return picks

    @cache
    def is_enough(weight: float) -> bool:
        return _enough(_saved(groups, pick(weight)))

    low, high = WEIGHTS
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return pick(high)


def _repair(groups: Sequence[Sequence[_Option]], picks: list[int]) -> None:
    """Exchanges picks while that brings the savings nearer to what each limit needs.

    One limit needs none of it: the picks that save most are among those of `_lagrange`.
    """

    def missing(saved: Sequence[float]) -> float:
        return sum(max(1.0 - part, 0.0) for part in saved)

    while not _enough(total := _saved(groups, picks)):
        exchanges = (
            (
                missing(
                    [t - a + b for t, a, b in zip(total, group[picks[i]].saved, other.saved, strict=True)]
                ),
                i,
                j,
            )
            for i, group in enumerate(groups)
            for j, other in enumerate(group)
            if _fits(groups, picks, i, other)
        )
        left, i, j = min(exchanges, default=(math.inf, 0, 0))
        if left > missing(total) - ROUNDING:
            return
        picks[i] = j


def _refine(groups: Sequence[Sequence[_Option]], picks: list[int]) -> None:
    """Takes back damage while the savings stay large enough, the best exchange first.

    Of options of equal damage that one stays which saves the least, so that no more is changed than asked.
    """
    while True:
        total = _saved(groups, picks)
        best: tuple[tuple[float, float], int, int] | None = None
        for i, group in enumerate(groups):
            now = group[picks[i]]
            for j, other in enumerate(group):
                if not _fits(groups, picks, i, other):
                    continue
                gained = now.damage - other.damage
                left = [t - a + b for t, a, b in zip(total, now.saved, other.saved, strict=True)]
                less = sum(now.saved) - sum(other.saved)
                if (gained > 0 or (gained == 0 and less > 0)) and _enough(left):
                    rank = gained / max(less, ROUNDING), less
                    if best is None or rank > best[0]:
                        best = (rank, i, j)
        if best is None:
            return
        picks[best[1]] = best[2]


def _fits(groups: Sequence[Sequence[_Option]], picks: Sequence[int], site: int, option: _Option) -> bool:
    """Whether an option of a site goes together with what is picked of the others."""
    if any(picks[j] for j in option.covers):
        return False
    return option.candidate is None or not any(
        site in group[pick].covers for group, pick in zip(groups, picks, strict=True)
    )


def _saved(groups: Sequence[Sequence[_Option]], picks: Sequence[int]) -> list[float]:
    chosen = [group[pick].saved for group, pick in zip(groups, picks, strict=True)]
    return [sum(parts) for parts in zip(*chosen, strict=True)]


def _enough(saved: Sequence[float]) -> bool:
    return all(part >= 1.0 - ROUNDING for part in saved)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which candidates are built, and why the others are not."""

    chosen: tuple[Candidate, ...]
    declined: tuple[tuple[Candidate, str], ...] = ()
