"""A budget's cost keys: what they still ask for, and whether they are kept."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis import Totals
from graphopt.core import Budget, Candidate
from graphopt.errors import InputError
from graphopt.plan import Limit

NODE_BYTES = 400
"""What a new operator adds to a file besides its weights, at most about."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a model costs, in the units of the budget's cost keys.

    Attributes:
        totals: MACs and parameters.
        bytes: size of the file, external data included.
    """

    totals: Totals
    bytes: int


def limits(budget: Budget, before: Spent, now: Spent, unknown: str) -> list[Limit]:
    """What the budget still asks for.

    Args:
        budget: fractions of ``before``.
        before: what the input costs.
        now: what the model costs by now.
        unknown: sizes that nothing tells, without which MACs can't be counted; "" when all are known.

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
        found.append(Limit("bytes", now.bytes - budget.bytes * before.bytes, _bytes_saved))
    return found


def _bytes_saved(candidate: Candidate) -> float:
    made = sum(1 for key in ("rank_in", "rank_out") if candidate.choice.get(key))
    return candidate.before.weight_bytes - candidate.after.weight_bytes - NODE_BYTES * made


def missed(budget: Budget, before: Spent, after: Spent) -> str:
    """The cost keys that are not kept, with their figures; "" when all are."""
    reached = (
        ("macs", budget.macs, before.totals.macs, after.totals.macs),
        ("params", budget.params, before.totals.params, after.totals.params),
        ("bytes", budget.bytes, before.bytes, after.bytes),
    )
    return "; ".join(
        f"{key} {now / max(was, 1):.4f} of the input's, {allowed:g} asked for"
        for key, allowed, was, now in reached
        if allowed is not None and was is not None and now is not None and now / max(was, 1) > allowed
    )
