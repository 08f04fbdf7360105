"""The figures that a budget asks for, and what its cost keys still ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from graphopt.errors import InputError, Named
from graphopt.planning.budget import Budget
from graphopt.planning.gates import Known
from graphopt.planning.selection import Limit
from graphopt.types import Candidate, Interval, Quality, Score, Totals

NODE_BYTES = 400
"""What a new operator adds to a file besides its weights, at most about; measured by benchmarks.thresholds:
372 to 399 for bottlenecks, separable and depthwise forms."""
RECORDED = 100
"""What a rewrite adds to the model's record of how it came about, at most about;
measured by the same: 72 to 81."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a model costs, in the units of the budget's cost keys.

    Attributes:
        totals: MACs and parameters.
        bytes: size of the file, external data included.
    """

    totals: Totals
    bytes: int


DearestRun: TypeAlias = Callable[[Sequence[Candidate]], "tuple[int, frozenset[str]] | None"]
"""MACs of the run that is dearest once candidates are put in, without them, and paths of the graphs that it
runs, such as `analysis.snapshot.Analysis.dearest_run`; None where they are unknown."""


@dataclass(frozen=True, slots=True)
class _Along:
    """What candidates save in the run that goes through these graphs."""

    graphs: frozenset[str]

    def __call__(self, candidate: Candidate) -> float:
        return candidate.macs_saved if candidate.site.graph in self.graphs else 0


def _macs_limit(most: float, dearest: DearestRun, chosen: Sequence[Candidate] = ()) -> Limit:
    """What the run that is dearest with a plan still has to save."""
    run = dearest(chosen)
    if run is None:
        raise InputError(f"{Named('budget', key='macs')}: MACs need every size, and one is unknown")
    macs, graphs = run
    return Limit("macs", macs - most, _Along(graphs), partial(_macs_limit, most, dearest))


def limits(
    budget: Budget,
    before: Spent,
    now: Spent,
    made: Callable[[Candidate], int],
    dearest: DearestRun,
    record: int = 0,
) -> list[Limit]:
    """What the budget still asks for.

    Args:
        budget: fractions of ``before``.
        before: what the input costs.
        now: what the model costs by now.
        made: operators more than before that a candidate makes, at most.
        dearest: of the model as it is by now.
        record: bytes that the model will take more once it is changed.

    Returns:
        A limit for each key of the budget that is a count.

    Raises:
        InputError: the budget asks for MACs, and those of a model are unknown.
    """
    found = []
    if budget.macs is not None:
        if before.totals.macs is None or now.totals.macs is None:
            raise InputError(f"{Named('budget', key='macs')}: MACs need every size, and one is unknown")
        found.append(_macs_limit(budget.macs * before.totals.macs, dearest))
    if budget.params is not None:
        needed = now.totals.params - budget.params * before.totals.params
        found.append(Limit("params", needed, lambda c: c.before.params - c.after.params))
    if budget.bytes is not None:
        needed = now.bytes - budget.bytes * before.bytes

        def saved(candidate: Candidate) -> float:
            freed = candidate.before.weight_bytes - candidate.after.weight_bytes
            return freed - NODE_BYTES * made(candidate) - RECORDED

        found.append(Limit("bytes", needed + record if needed > 0 else needed, saved))
    return found


def costs(before: Spent, after: Spent) -> dict[str, float]:
    """What a model costs, as parts of the input's, by key of a budget; what is known."""
    pairs = {
        "macs": (before.totals.macs, after.totals.macs),
        "params": (before.totals.params, after.totals.params),
        "bytes": (before.bytes or None, after.bytes),  # counted only where the budget asks
    }
    return {key: now / (was or 1) for key, (was, now) in pairs.items() if was is not None and now is not None}


def measured(quality: Quality | None, metric: float | None) -> dict[str, float | None]:
    """What was measured of a model, by key of a budget."""
    found = {} if quality is None else {"agreement": quality.agreement, "sqnr": quality.sqnr}
    figures = metric.figures if isinstance(metric, Score) else {}
    return {**found, "metric": metric, **figures}


def known(quality: Quality | None, metric: float | None, confidence: float) -> Known | None:
    """How far what was measured of a model holds for all inputs of the kind.

    Args:
        quality: on some inputs, where it was measured.
        metric: what the measure that was named says, where there is one.
        confidence: of the intervals; 0 where figures are judged by themselves.

    Returns:
        The intervals by key of a budget; that of the user's own measure is not known. None where figures are
        judged by themselves.
    """
    if not confidence:
        return None
    found: dict[str, Interval | None] = {}
    inputs = 0
    if quality is not None:
        inputs = quality.samples
        if quality.sqnr != math.inf:  # what is the same in every number is no chance
            found = {"agreement": quality.interval, "sqnr": quality.sqnr_interval}
    if isinstance(metric, Score):
        inputs = inputs or metric.samples
        found |= metric.intervals
        found["metric"] = next(iter(metric.intervals.values()), None)
    return Known({key: each for key, each in found.items() if each is not None}, inputs, confidence)
