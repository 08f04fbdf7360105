"""What came of a run in one line: is it faster, is it smaller, is it still right."""

from __future__ import annotations

from graphopt.report.results import Report
from graphopt.report.wording import change, decibels, percent, ranges, total_rows, verified
from graphopt.runtime.latency import Timing
from graphopt.types import Quality

TOLD = 0.001
"""Change of a figure that is worth a headline: derived, what four digits of it show."""


def headline(result: Report) -> str:
    """Such as ``1.57 times as fast · MACs −50 % · agrees on 99.6 % (97.8 % to 99.9 %)``.

    Args:
        result: what a run did; of one that changed nothing, that.
    """
    if result.unchanged:
        return result.unchanged
    return " · ".join(filter(None, (_faster(result.latency), _smaller(result), _right(result))))


def _faster(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return timing.outcome or f"{timing.speedup:.2f} times as fast"


def _smaller(result: Report) -> str:
    """The change of the MACs, or else of the figure that changed the most."""
    changed = {
        name: (before, after)
        for name, before, after in total_rows(result.before, result.after)
        if before and after is not None and abs(after / before - 1) >= TOLD
    }
    if not changed:
        return ""
    name = max(changed, key=lambda each: (each == "MACs", abs(changed[each][1] / changed[each][0] - 1)))
    return f"{name} {change(*changed[name])}"


def _right(result: Report) -> str:
    """What is known of the outputs: verified where all is exact, else what was measured."""
    if result.approximate:
        return "the error is unmeasured" if result.quality is None else _agrees(result.quality)
    return verified(result) or "not verified"


def _agrees(quality: Quality) -> str:
    """The agreement, or the SQNR where there is none, with its interval."""
    agreed, sqnr = ranges(quality)
    if quality.agreement is None:
        told, span = f"SQNR {decibels(quality.sqnr)}", sqnr
    else:
        told, span = f"agrees on {percent(quality.agreement)}", agreed
    return f"{told} ({span})" if span else told
