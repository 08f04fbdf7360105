"""The structure around each change, drawn before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from graphopt.report.page.changes import DrawnChange, DrawnOperator, Piece, regions
from graphopt.report.page.common import Facts, limited
from graphopt.report.page.drawing import Layout, layout
from graphopt.report.results import Result
from graphopt.report.wording import count, kind

MOST_DRAWINGS = 40
"""Changes that are drawn; alike ones are one."""
MOST_DRAWN = 24
"""Operators on one side of a drawing."""
MOST_NAMES = 12
"""Names listed beside a drawing."""


@dataclass(frozen=True)
class _Side:
    """One side of a drawing: where things are, and what is written on them."""

    layout: Layout
    operators: tuple[tuple[DrawnOperator, str, str], ...]
    text: str
    hidden: int


def drawings(result: Result, most: int) -> tuple[list[Facts], int, int]:
    """The changes, alike ones as one, those that save most first; how many are left out, and their sites."""
    alike: dict[Any, list[DrawnChange]] = {}
    for region in regions(result.before, result.after, result.report.applied):
        alike.setdefault(region.shape(_label), []).append(region)
    groups = sorted(alike.values(), key=lambda group: -sum(region.macs_saved for region in group))
    shown = []
    for group in groups[:most]:
        names, more = limited([region.nodes[0] for region in group], MOST_NAMES)
        shown.append(
            {
                "rewrites": group[0].rewrites,
                "names": names,
                "more": more,
                "sites": len(group),
                "saved": sum(region.macs_saved for region in group),
                "sides": [_side(group[0].before), _side(group[0].after)],
            }
        )
    rest = groups[most:]
    return shown, len(rest), sum(len(group) for group in rest)


def _label(operator: DrawnOperator) -> str:
    return "\n".join(_lines(operator)) if operator.state != "port" else operator.op


def _lines(operator: DrawnOperator) -> tuple[str, str]:
    """What is written on an operator: what it is, and its channels and MACs."""
    linear = operator.linear
    if operator.state == "port":
        return operator.op, operator.name
    if linear is None:
        return operator.op, ""
    first = f"{linear.op} {kind(linear).removeprefix('T ')}" if linear.kernel else linear.op
    channels = f"{linear.in_channels or '?'}→{linear.out_channels or '?'}"
    return first, f"{channels} · {count(linear.macs)}"


def _side(piece: Piece) -> _Side:
    changed = piece.changed()
    names = Counter(item.op for item in changed)
    text = ", ".join(f"{number} {op}" if number > 1 else op for op, number in names.items()) or "nothing"
    if len(piece.operators) > MOST_DRAWN:
        return _Side(layout(0, ()), (), text, len(piece.operators))
    placed = layout(len(piece.operators), piece.edges)
    return _Side(placed, tuple((item, *_lines(item)) for item in piece.operators), text, piece.hidden)
