"""What tuning made of a network, as text for a terminal."""

from __future__ import annotations

from pathlib import Path

from graphopt.files import show
from graphopt.report.results import Tuned
from graphopt.report.text.common import escape, table_of, terminal
from graphopt.report.wording import decibels, numbered, percent, spans
from graphopt.types import Quality

MOST_CHECKS = 6
"""Lines of the error on the way."""


def tuning(result: Tuned, out: Path) -> None:
    """Prints quality before and after, the error on the way, and how it was done."""
    console, told = terminal(), result.tuning
    if result.kept:
        console.print(f"[bold]tuned: {_quality(result.before)} → {_quality(result.after)}[/]")
    else:
        console.print(f"[bold]not improved: the network stays as it was, at {_quality(result.before)}[/]")
    console.print(
        f"measured on {numbered(result.after.samples, 'held-out input')}, after {told.best} of "
        f"{numbered(told.steps, 'step')} of {numbered(told.batch, 'input')}, fitted to {told.fitted} and "
        f"stopped by {told.apart} others"
    )
    table = table_of(">step", ">error on inputs apart")
    every = max(1, -(-len(told.curve) // MOST_CHECKS))
    for step, error in [*told.curve[:-1:every], told.curve[-1]]:
        table.add_row(str(step), f"{error:.4f}")
    console.print(table)
    console.print(
        f"{told.weights:,} numbers moved, led by {numbered(len(told.led_by), 'value')}"
        + (f", inputs {told.changes}" if told.changes else "")
    )
    for line in spans(result.after):
        console.print(f"  {line}")
    taken = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items() if seconds >= 1)
    if taken:
        console.print(f"time: {taken}")
    for note in result.notes:
        console.print(escape(f"note: {note}"))
    console.print(f"wrote {escape(show(out))}")


def _quality(quality: Quality) -> str:
    """The figures of a quality in one line."""
    agreed = [] if quality.agreement is None else [f"agreement {percent(quality.agreement)}"]
    return ", ".join([*agreed, f"SQNR {decibels(quality.sqnr)}"])
