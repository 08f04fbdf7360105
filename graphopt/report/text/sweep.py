"""Cost against quality, as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console

from graphopt.report.results import Point, Sweep
from graphopt.report.text.common import escape, table_of, terminal
from graphopt.report.wording import in_sight, point_rows

PLOT_ROWS = 10
"""Lines of the plot of a sweep."""


def sweep(result: Sweep) -> None:
    """Prints a network a line, then quality over MACs as a plot."""
    console = terminal()
    columns, rows = point_rows(result)
    table = table_of(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    agreements = {p.quality.agreement for p in result.points if p.quality is not None}
    _plot(console, result.points, agreement=len(agreements - {None}) > 1)
    for note in result.notes:
        console.print(escape(f"note: {note}"))


def _plot(console: Console, points: Sequence[Point], *, agreement: bool) -> None:
    """Quality of each network over its MACs, as wide as the terminal."""
    places = []
    for point in points:
        quality = point.quality
        value = None if quality is None else quality.agreement if agreement else quality.sqnr
        if value is not None and not math.isnan(value) and "macs" in point.costs:
            places.append((point.costs["macs"], value))
    if len(places) < 2:
        return
    if not agreement:
        heights = in_sight([value for _, value in places])
        places = [(x, height) for (x, _), height in zip(places, heights, strict=True)]
    left, right = min(x for x, _ in places), max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)
    width = max(20, min(console.width, 100) - 12)
    rows = [[" "] * width for _ in range(PLOT_ROWS)]
    for x, y in places:
        column = round((x - left) / ((right - left) or 1) * (width - 1))
        rows[round((high - y) / ((high - low) or 1) * (PLOT_ROWS - 1))][column] = "●"
    names = {0: high, PLOT_ROWS - 1: low}
    console.print("agreement over MACs" if agreement else "SQNR (dB) over MACs", style="bold")
    for number, row in enumerate(rows):
        value = names.get(number)
        label = "" if value is None else f"{value:.1%}" if agreement else f"{value:.1f}"
        console.print(f"{label:>8} │{''.join(row).rstrip()}")
    console.print(f"{'':>8} └{'─' * width}")
    console.print(f"{'':>9}{left:<.2f}{right:>{width - 4}.2f}")
