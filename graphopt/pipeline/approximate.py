"""The approximate rewrites: the network that a budget asks for, fitted in order, measured and committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from graphopt.errors import Named
from graphopt.pipeline.changes import Changes, Proposals
from graphopt.pipeline.journal import Journal
from graphopt.pipeline.networks.network import Network, Networks, left_by
from graphopt.pipeline.options.checked import Options
from graphopt.pipeline.reporting import applied, point
from graphopt.pipeline.workspace import Measures, Workspace
from graphopt.planning import gates, selection, spending
from graphopt.planning.budget import Budget
from graphopt.planning.gates import Judged
from graphopt.planning.selection import Limit, Plan
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.rewrites.registry import finishing
from graphopt.runtime import latency
from graphopt.runtime.latency import Timing
from graphopt.types import Candidate

REPLANS = 5
"""Times that a plan is made again without layers whose measured error was not the predicted one; each fits a
whole network. Measured by benchmarks.thresholds: with 1, 2, 5 and 20 the networks of 16 and of 128 inputs are
the same, since no layer failed."""
FACTOR = 2.0
"""By so much a measured error may differ from the predicted one, either way. Derived: both are means over 16
inputs at least (`layer_errors.FEWEST_INPUTS`), each off by √(2/16), a third: (1 + 1/3) / (1 − 1/3). Measured
by benchmarks.thresholds besides: 1.3 to 4 give the same of 16 and of 128 inputs."""
LEAST_ERROR = 1e-6
"""Errors up to this (60 dB) are no prediction: derived, 1e-4 of the least level that is probed."""
NARROW = 0.015
"""A search for the cheapest network ends when it is known to this part of the MACs: derived, six networks,
(1 − CHEAPEST) / 2⁶."""
CHEAPEST = 0.1
"""Part of the MACs below which no network is looked for. Measured by benchmarks.thresholds: with 0, 0.1 and
0.3 the cheapest network of 25 dB has 0.203, 0.196 and 0.308 of the MACs, after 8, 7 and 7 networks: lower is
not seen to find more, and takes one more."""
DRAFTS = 8
"""Plans whose latency is measured before one is fitted, at most: derived, seven moves reach an aim that is
off by STEP⁷ = 17. Measured by benchmarks.thresholds: where 0.7 was asked for 2 reached 0.70 and these
0.67."""
FITTED = 3
"""Networks that are fitted for a latency, at most. Derived: where layers save 30 % less together than their
drafts did, the first network is off by 0.3 of what it has to save, the second by 0.3² and the third by 0.3³,
which is less than `latency.NOISE`. Measured by benchmarks.thresholds: where 0.7 was asked for the first was
fast enough each time, on a loaded machine."""
CLOSE = latency.NOISE
"""A draft that is faster than asked by at most this part of the input's time is fast enough: no clock
tells."""
STEP, SMALL_STEP = 1.5, 1 + latency.NOISE
"""By so much the aim of a draft is moved at once, at most, and at least where it is too slow. Derived: more
than the times of single operators are off (1.36, see `operator_times.FORM_SECONDS`), so that one wrong
measurement does no more; a smaller move than the least can't be measured."""
LEAST_SAVED = 1e-3
"""Part of the input's time that a network counts as having saved at the least, so that what is still missing
has a scale: derived, less than a tenth of `latency.NOISE`, so that whatever was measured stands."""
LEAST = 0.9
"""Of the latency asked for, below which more was given up than was asked for, and another network is tried.
Derived: three times `latency.NOISE`, so that no noise alone begins another."""
MARGIN = 1 - latency.NOISE
"""Of the latency asked for that is aimed at: derived, the next measurement differs by the noise."""


def approximate(
    workspace: Workspace,
    proposals: Proposals,
    changes: Changes,
    measures: Measures,
    options: Options,
    journal: Journal,
) -> ir.Model | None:
    """Finds the network that the budget asks for, and commits it.

    Args:
        workspace: the model.
        proposals: what the user did not rule out.
        changes: puts changes in.
        measures: figures of models against the input's.
        options: what the user asked for.
        journal: notes what was done.

    Returns:
        The network, before exact rewrites took away what it leaves unread; None where nothing was changed.

    Raises:
        InputError: the budget needs sizes that are unknown.
    """
    group = proposals.approximate
    fixed = [r for r in group if r.fixed]
    budget, limits = options.budget, measures.limits(options.budget)
    wanted = any(limit.needed > 0 for limit in limits) or budget.asks_quality or budget.latency is not None
    if not group or not (fixed or wanted):
        return None
    if wanted and not options.force and measures.unmeasurable():  # which the verdict tells
        return None
    networks = Networks(workspace, fixed or group, proposals, changes, measures, options, journal)
    if fixed and not wanted:
        network = networks.network(Plan(selection.compatible(networks.candidates)))
        journal.curve.append(point(network, measures.costs(network.model)))
    elif budget.latency is not None:
        network = _fast(networks, measures, journal, limits, budget.latency)
    elif budget.asks_cost:
        network = reliable(networks, measures, journal, limits)
    else:
        network = _keeping(networks, measures, journal, budget)
    network = _kept(network, networks, measures, journal)
    journal.decline(network.plan)
    found = None
    running = changes.running(networks.analysis, network.changes)
    if running:
        rows = applied(
            network,
            [change.candidate for change in running],
            networks.damage.sensitivities,
            measured=workspace.calibration is not None,
            sized=not workspace.inputs.assumed,
        )
        changes.commit(running, rows)
        found = workspace.model
        _finish(workspace, proposals, changes, group, [change.candidate for change in running])
    journal.take(network.plan)
    return found


def _finish(
    workspace: Workspace,
    proposals: Proposals,
    changes: Changes,
    group: Sequence[ApproximateRewrite],
    candidates: Sequence[Candidate],
) -> None:
    """Takes away what the candidates' layers leave unread, each change verified alone."""
    taken = {candidate.rewrite for candidate in candidates}
    for rewrite in finishing(each for each in group if each.name in taken):
        analysis = workspace.analysis(workspace.model)
        left = left_by(candidates, rewrite, analysis, proposals)
        while made := changes.build(analysis, filter(changes.journal.allows, left)):
            if not changes.failing(analysis, made):
                changes.commit(made, told=False)
                break


def reliable(networks: Networks, measures: Measures, journal: Journal, limits: Sequence[Limit]) -> Network:
    """The network of the best plan in which every layer's measured error is the predicted one.

    Args:
        networks: makes networks of plans.
        measures: figures of models against the input's.
        journal: where layers that failed are banned, and the network's place on the curve is noted.
        limits: what the plan has to save.

    Returns:
        The network, without layers that still fail after `REPLANS` plans.
    """
    for _ in range(REPLANS):
        chosen = networks.planned(limits)
        network = networks.network(chosen)
        strange = _unpredicted(network)
        if not strange and network.plan.chosen == chosen.chosen:
            break
        for candidate, reason in strange.items():
            journal.ban(candidate, reason)
    else:
        kept = tuple(c for c in network.plan.chosen if journal.allows(c))
        network = networks.network(replace(network.plan, chosen=kept))
    journal.curve.append(point(network, measures.costs(network.model)))
    return network


def _unpredicted(network: Network) -> dict[Candidate, str]:
    """The layers whose measured error is not the predicted one, or all that there is, with the figures."""
    planned = {candidate.site: candidate for candidate in network.plan.chosen}
    found = {}
    for name, fit in network.fits.items():
        if fit.candidate.site not in planned:  # it came along: its error is that of the layers before it
            continue
        predicted, measured = fit.candidate.error, network.errors[name]
        low, high = sorted((predicted, measured))
        if measured >= 1:
            reason = (
                f"error {measured:.2f} on held-out inputs: as much is lost where its output never changes"
            )
            found[planned[fit.candidate.site]] = reason
            continue
        if high > FACTOR * low and high > LEAST_ERROR:
            reason = (
                f"failed verification: error {measured:.4f} on held-out inputs, {predicted:.4f} predicted"
            )
            found[planned[fit.candidate.site]] = reason
    return found


# ---------------------------------------------------------------- the cheapest that keeps a quality


def _keeping(networks: Networks, measures: Measures, journal: Journal, budget: Budget) -> Network:
    """The cheapest network that keeps the quality of a budget."""
    measures.workspace.require_macs(Named("budget"))
    best = networks.network(Plan(()))
    journal.curve.append(point(best, measures.costs(best.model)))

    def judged(network: Network) -> tuple[Judged, ...]:
        quality, metric = network.quality, network.metric
        known = measures.known(quality, metric) if network.changes else None
        return gates.judge(gates.of_budget(budget), spending.measured(quality, metric), known)

    if any(item.measured is None for item in judged(best)):  # nor will there be a figure of another network
        return best
    return _cheapest(best, networks, measures, journal, lambda network: all(judged(network)), CHEAPEST)


def _kept(network: Network, networks: Networks, measures: Measures, journal: Journal) -> Network:
    """The network, or where it is below the floor the cheapest that is not, which the verdict tells."""
    if not network.changes:
        return network
    below, low = measures.below(network.quality, network.metric), measures.costs(network.model).get("macs")
    if below and measures.options.force:
        journal.notes.append(f"below the floor, and taken all the same by force: {below}")
        return network
    journal.below = below
    if not below or low is None:
        return network

    def keeps(network: Network) -> bool:
        return not measures.below(network.quality, network.metric)

    return _cheapest(networks.network(Plan(())), networks, measures, journal, keeps, low)


def _cheapest(
    best: Network,
    networks: Networks,
    measures: Measures,
    journal: Journal,
    keeps: Callable[[Network], bool],
    low: float,
) -> Network:
    """The cheapest network that keeps something, by bisection of its MACs.

    Args:
        best: one that does.
        networks: makes networks of plans.
        measures: figures of models against the input's.
        journal: where the networks' places on the curve are noted.
        keeps: whether a network does.
        low: the part of the MACs below which none is looked for.

    Returns:
        The network.
    """
    high = measures.costs(networks.model).get("macs", 0.0)
    while high - low > NARROW:
        middle = (low + high) / 2
        network = reliable(networks, measures, journal, measures.limits(Budget(macs=middle)))
        reached = measures.costs(network.model)["macs"]
        if keeps(network):
            best, high = network, min(middle, reached)
        else:
            low = middle
        if reached > middle + NARROW:  # there is nothing cheaper
            low = middle
    return best


# ---------------------------------------------------------------- a latency


def _fast(
    networks: Networks, measures: Measures, journal: Journal, limits: Sequence[Limit], asked: float
) -> Network:
    """The network that takes the wanted part of the input's time as measured, or the nearest to it.

    What the layers save by themselves is not quite what the network saves. So a plan is put together with
    weights that mean nothing, timed, and made anew with the difference counted in, before anything is fitted.
    """
    now = measures.latency(networks.model, asked).ratio
    scale, found = 1.0, list[tuple[float, Network]]()
    for _ in range(FITTED):
        chosen, scale = drafted(networks, measures.latency, limits, asked * MARGIN, now, scale)
        with_latency = [*limits, _latency_limit(networks, asked * MARGIN, now, scale)]
        network = (
            reliable(networks, measures, journal, with_latency) if chosen.chosen else networks.network(chosen)
        )
        ratio = measures.latency(network.model, asked).ratio if network.changes else now
        found.append((ratio, network))
        if asked * LEAST <= ratio <= asked or not chosen.chosen:
            break
        scale *= (now - asked * MARGIN) / max(now - ratio, LEAST_SAVED)
    fast = [ratio for ratio, _ in found if ratio <= asked]
    wanted = max(fast) if fast else min(ratio for ratio, _ in found)
    if len(found) > 1 and wanted < asked * LEAST:
        journal.notes.append(
            f"faster than was asked for: {wanted:.3f} of the latency; of {len(found)} networks none was "
            f"nearer to {asked:g}"
        )
    return next(network for ratio, network in found if ratio == wanted)


def _latency_limit(networks: Networks, aim: float, now: float, scale: float) -> Limit:
    """What has to be saved of the input's time, in parts of it, by the times of single layers."""
    return Limit("latency", scale * (now - aim), networks.clock.saved)


def drafted(
    networks: Networks,
    latency: Callable[[ir.Model], Timing],
    limits: Sequence[Limit],
    aim: float,
    now: float,
    scale: float,
) -> tuple[Plan, float]:
    """A plan whose draft is as fast as is aimed at and not much faster, and its scale.

    The scale is what the layers' times by themselves have to save more than the network has to. One wrong
    measurement moves it by a step only.

    Args:
        networks: makes plans and drafts.
        latency: measures a model against the input.
        limits: what the plan has to save besides.
        aim: the latency aimed at, as a part of the input's; so are the others.
        now: of the model as it is by now.
        scale: to begin with.

    Returns:
        The plan, an empty one where nothing can be saved, and its scale.
    """
    found, at, fast = Plan(()), scale, float("inf")
    for _ in range(DRAFTS):
        chosen = networks.planned([*limits, _latency_limit(networks, aim, now, scale)])
        if not chosen.chosen:
            return chosen, scale
        ratio = latency(networks.draft(chosen)).ratio
        wanted = scale * (now - aim) / max(now - ratio, LEAST_SAVED)
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
