"""A budget's cost keys: what they still ask for, and whether they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import InputError
from graphopt.planning.budget import Budget
from graphopt.planning.selection import Limit
from graphopt.types import Candidate, Quality, Totals

NODE_BYTES = 400
"""What a new operator adds to a file besides its weights, at most about."""
MOST_NEW = 2
"""Operators more than before that a form without sides makes, at most."""
RECORDED = 100
"""What a rewrite adds to the model's record of how it came about, at most about."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a model costs, in the units of the budget's cost keys.

    Attributes:
        totals: MACs and parameters.
        bytes: size of the file, external data included.
        seconds: measured latency at one thread; None where it was not measured.
    """

    totals: Totals
    bytes: int
    seconds: float | None = None


def limits(budget: Budget, before: Spent, now: Spent, unknown: str, record: int = 0) -> list[Limit]:
    """What the budget still asks for.

    Args:
        budget: fractions of ``before``.
        before: what the input costs.
        now: what the model costs by now.
        unknown: sizes that nothing tells, without which MACs can't be counted; "" when all are known.
        record: bytes that the model will take more once it is changed.

    Returns:
        A limit for each key of the budget that is a count.

    Raises:
        InputError: the budget needs sizes that are unknown.
    """
    found = []
    if budget.macs is not None:
        if before.totals.macs is None or now.totals.macs is None or unknown:
            size = unknown or "a size"
            raise InputError(f"--budget macs needs every size, and {size} is unknown: give --shape or inputs")
        needed = now.totals.macs - budget.macs * before.totals.macs
        found.append(Limit("macs", needed, lambda c: c.macs_saved))
    if budget.params is not None:
        needed = now.totals.params - budget.params * before.totals.params
        found.append(Limit("params", needed, lambda c: c.before.params - c.after.params))
    if budget.bytes is not None:
        needed = now.bytes - budget.bytes * before.bytes
        found.append(Limit("bytes", needed + record if needed > 0 else needed, _bytes_saved))
    return found


def _bytes_saved(candidate: Candidate) -> float:
    sides = sum(1 for key in ("rank_in", "rank_out") if candidate.choice.get(key))
    made = sides or MOST_NEW
    return candidate.before.weight_bytes - candidate.after.weight_bytes - NODE_BYTES * made - RECORDED


def figures(before: Spent, after: Spent, quality: Quality | None, metric: float | None) -> dict[str, float]:
    """What the result has of each key of a budget: costs as parts of the input's; those that are known.

    Args:
        before: what the input costs.
        after: what the model costs.
        quality: against the input, where it was measured.
        metric: what the user's own measure says, where there is one.

    Returns:
        Parts of the input's costs, agreement as a fraction, SQNR in dB, by key.
    """
    pairs = {
        "macs": (before.totals.macs, after.totals.macs),
        "params": (before.totals.params, after.totals.params),
        "bytes": (before.bytes, after.bytes),
        "latency": (before.seconds, after.seconds),
    }
    found = {
        key: now / (was or 1) for key, (was, now) in pairs.items() if was is not None and now is not None
    }
    if not before.bytes:  # counted only where the budget asks
        del found["bytes"]
    if quality is not None:
        found["sqnr"] = quality.sqnr
        if quality.agreement is not None:
            found["agreement"] = quality.agreement
    if metric is not None:
        found["metric"] = metric
    return found


def missed(budget: Budget, before: Spent, after: Spent, quality: Quality | None, metric: float | None) -> str:
    """The keys that are not kept, with their figures; "" when all are.

    Args:
        budget: what was asked for.
        before: what the input costs.
        after: what the model costs.
        quality: against the input, where it was measured.
        metric: what the user's own measure says, where there is one.

    Returns:
        One line.
    """
    reached = (
        ("macs", budget.macs, before.totals.macs, after.totals.macs),
        ("params", budget.params, before.totals.params, after.totals.params),
        ("bytes", budget.bytes, before.bytes, after.bytes),
        ("latency", budget.latency, before.seconds, after.seconds),
    )
    costs = [
        f"{key} {now / (was or 1):.4f} of the input's, {allowed:g} asked for"
        for key, allowed, was, now in reached
        if allowed is not None and was is not None and now is not None and now / (was or 1) > allowed
    ]
    return "; ".join([*costs, *lacking(budget, quality, metric)])


def lacking(budget: Budget, quality: Quality | None, metric: float | None) -> list[str]:
    """The quality keys that are not kept, with their figures.

    Args:
        budget: what was asked for.
        quality: against the input, where it was measured.
        metric: what the user's own measure says, where there is one.

    Returns:
        A text for each key that is not kept.
    """
    measured = (
        ("agreement", budget.agreement, None if quality is None else quality.agreement),
        ("sqnr", budget.sqnr, None if quality is None else quality.sqnr),
        ("metric", budget.metric, metric),
    )
    return [
        f"{key} {now:.4g}, at least {wanted:g} asked for"
        for key, wanted, now in measured
        if wanted is not None and now is not None and now < wanted
    ]
