"""The approximate rewrites: the network that a budget asks for, fitted in order, measured and committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt.errors import InputError
from graphopt.pipeline.networks import Network, Search
from graphopt.pipeline.run import Run
from graphopt.planning import spending
from graphopt.planning.budget import Budget
from graphopt.planning.selection import Limit, Plan
from graphopt.runtime import latency
from graphopt.types import Candidate, Exactness

REPLANS = 5
"""Times that a plan is made again without layers whose measured error was not the predicted one: a choice of
time, each fits a whole network."""
FACTOR = 2.0
"""By so much a measured error may differ from the predicted one, either way: a choice; benchmarks.thresholds
tries others."""
NOISE = 1e-6
"""Errors up to this (60 dB) are no prediction: 1e-4 of the least level that is probed."""
NARROW = 0.015
"""A search for the cheapest network ends when it is known to this part of the MACs: derived, six networks,
(1 − CHEAPEST) / 2⁶."""
CHEAPEST = 0.1
"""Part of the MACs below which no network is looked for: a choice that bounds the search."""
DRAFTS = 8
"""Plans whose latency is measured before one is fitted, at most: derived, seven moves reach an aim that is
off by STEP⁷ = 17."""
FITTED = 3
"""Networks that are fitted for a latency, at most: a choice of time, the scale is then corrected twice."""
CLOSE = latency.NOISE
"""A draft that is faster than asked by at most this part of the input's time is fast enough: no clock
tells."""
STEP, SMALL_STEP = 1.5, 1 + latency.NOISE
"""By so much the aim of a draft is moved at once, at most (one wrong measurement does no more), and at least
where it is too slow (a smaller move can't be measured)."""
MARGIN = 1 - latency.NOISE
"""Of the latency asked for that is aimed at: the next measurement differs by the noise."""


def approximate(run: Run) -> bool:
    """Finds the network that the budget asks for and commits it; whether it changed anything."""
    group = run.taking_part(Exactness.APPROXIMATE)
    fixed = [r for r in group if getattr(r, "fixed", False)]
    limits = cost_limits(run, run.options.budget)
    wanted = any(limit.needed > 0 for limit in limits)
    wanted |= run.options.budget.asks_quality or run.options.budget.latency is not None
    if not group or not (fixed or wanted):
        return False
    search = Search(run, fixed or group)
    if fixed and not wanted:
        network = search.network(Plan(tuple(search.candidates)))
        run.journal.curve.append(search.point(network))
    elif run.options.budget.latency is not None:
        network = _fast(run, search, limits)
    elif run.options.budget.asks_cost:
        network = reliable(run, search, limits)
    else:
        network = _cheapest(run, search)
    run.journal.decline(network.plan)
    changes = run.running(search.analysis, network.changes)
    if changes:
        run.commit(changes, [search.applied(network, candidate) for candidate, _ in changes])
    run.journal.take(network.plan)
    return bool(changes)


def cost_limits(run: Run, asked: Budget) -> list[Limit]:
    """What a budget still asks of the run's model, latency apart."""
    unknown = ", ".join(run.unknown_dims)
    record = run.record_bytes if asked.bytes is not None and run.model is run.source.model else 0
    return spending.limits(asked, run.spent_before, run.spent(), unknown, record)


def reliable(run: Run, search: Search, limits: Sequence[Limit]) -> Network:
    """The network of the best plan in which every layer's measured error is the predicted one."""
    for _ in range(REPLANS):
        network = search.network(search.planned(limits))
        strange = _unpredicted(network)
        if not strange:
            break
        for candidate, reason in strange.items():
            run.journal.ban(candidate, reason)
    else:
        kept = tuple(c for c in network.plan.chosen if run.journal.allows(c))
        network = search.network(replace(network.plan, chosen=kept))
    run.journal.curve.append(search.point(network))
    return network


def _unpredicted(network: Network) -> dict[Candidate, str]:
    """The layers whose measured error is not what was predicted, with the figures."""
    planned = {candidate.site: candidate for candidate in network.plan.chosen}
    found = {}
    for name, fit in network.fits.items():
        predicted, measured = fit.candidate.error, network.errors[name]
        low, high = sorted((predicted, measured))
        if high > FACTOR * low and high > NOISE:
            reason = (
                f"failed verification: error {measured:.4f} on held-out inputs, {predicted:.4f} predicted"
            )
            found[planned[fit.candidate.site]] = reason
    return found


# ---------------------------------------------------------------- the cheapest that keeps a quality


def _cheapest(run: Run, search: Search) -> Network:
    """The cheapest network that keeps the quality, by bisection of its MACs."""
    before = run.spent_before.totals.macs
    if before is None:
        raise InputError("a quality alone asks for the fewest MACs, and a size is unknown: give --shape")
    best = search.network(Plan(()))
    run.journal.curve.append(search.point(best))
    high, low = (run.spent().totals.macs or 0) / before, CHEAPEST
    while high - low > NARROW:
        middle = (low + high) / 2
        network = reliable(run, search, cost_limits(run, Budget(macs=middle)))
        reached = search.costs(network.model)["macs"]
        if not spending.lacking(run.options.budget, network.quality, network.metric):
            best, high = network, min(middle, reached)
        else:
            low = middle
        if reached > middle + NARROW:  # there is nothing cheaper
            low = middle
    return best


# ---------------------------------------------------------------- a latency


def _fast(run: Run, search: Search, limits: Sequence[Limit]) -> Network:
    """The network that takes the wanted part of the input's time as measured, or the nearest to it.

    What the layers save by themselves is not quite what the network saves. So a plan is put together with
    weights that mean nothing, timed, and made anew with the difference counted in, before anything is fitted.
    """
    asked = run.options.budget.latency
    assert asked is not None
    now = run.latency(search.model).ratio
    scale, best, best_ratio = 1.0, None, float("inf")
    for _ in range(FITTED):
        chosen, scale = _drafted(run, search, limits, asked * MARGIN, now, scale)
        with_latency = [*limits, _latency_limit(search, asked * MARGIN, now, scale)]
        network = reliable(run, search, with_latency) if chosen.chosen else search.network(chosen)
        ratio = run.latency(network.model).ratio if network.changes else now
        if ratio < best_ratio:
            best, best_ratio = network, ratio
        if ratio <= asked or not chosen.chosen:
            break
        scale *= (now - asked * MARGIN) / max(now - ratio, 1e-3)
    assert best is not None
    return best


def _latency_limit(search: Search, aim: float, now: float, scale: float) -> Limit:
    """What has to be saved of the input's time, in parts of it, by the times of single layers."""
    return Limit("latency", scale * (now - aim), search.time_saved)


def _drafted(
    run: Run, search: Search, limits: Sequence[Limit], aim: float, now: float, scale: float
) -> tuple[Plan, float]:
    """A plan whose draft is as fast as is aimed at and not much faster, and its scale.

    The scale is what the layers' times by themselves have to save more than the network has to. One wrong
    measurement moves it by a step only.
    """
    found, at, fast = Plan(()), scale, float("inf")
    for _ in range(DRAFTS):
        chosen = search.planned([*limits, _latency_limit(search, aim, now, scale)])
        if not chosen.chosen:
            return chosen, scale
        ratio = run.latency(search.draft(chosen)).ratio
        wanted = scale * (now - aim) / max(now - ratio, 1e-3)
        if ratio <= aim and scale < fast:
            found, at, fast = chosen, scale, scale
            if ratio > aim - CLOSE:
                break
        elif ratio > aim:
            if fast == float("inf"):
                found, at = chosen, scale
            elif wanted >= fast:
                wanted = (scale + fast) / 2
            wanted = max(wanted, scale * SMALL_STEP)
        scale = min(max(wanted, scale / STEP), scale * STEP)
    return found, at
