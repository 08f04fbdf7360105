"""How two models compare, in what they compute and how long it takes, as text for a terminal."""

from __future__ import annotations

import math

from graphopt.report.text.common import escape, table_of, terminal, warnings
from graphopt.report.wording import decibels, numbered
from graphopt.runtime.latency import Timing
from graphopt.verification.verdict import Rule, Verification


def verification(result: Verification) -> None:
    """Prints each comparison, then the outcome."""
    console = terminal()
    warnings(console, result.warnings)
    # by their relative difference, as the columns say, or by another rule
    others = any(check.rule is not Rule.RELATIVE for check in result.checks)
    columns = ("compared", "output", ">relative", ">allowed", ">SQNR", "")
    table = table_of(*columns, *(["by"] if others else []))
    for check in result.checks:
        table.add_row(
            escape(check.scope),
            escape(check.compared),
            "–" if math.isnan(check.max_rel) else f"{check.max_rel:.1e}",
            f"{check.allowed:g}" if math.isnan(check.max_rel) else f"{check.allowed:.1e}",
            decibels(check.sqnr),
            "passed" if check else "[bold red]failed[/]",
            *([check.rule.value] if others else []),
        )
    if result.checks:
        console.print(table)
    told = [check.note for check in result.checks if check.note and check.note not in result.warnings]
    for text in dict.fromkeys((*(result.notes if result.checks else ()), *told)):
        console.print(escape(f"note: {text}"))
    if not result.checks:
        return
    quality = all(math.isnan(check.max_rel) for check in result.checks)
    agree, differ = (
        ("the quality is kept", f"the quality is not {'known to be ' * result.undecided}kept")
        if quality
        else ("the models agree", "the models differ")
    )
    console.print(agree if result else f"[bold red]{differ}[/]")


def timing(result: Timing) -> None:
    """Prints the latency of both and their ratio."""
    console = terminal()
    console.print(f"reference {result.reference_ms:.3f} ms, candidate {result.candidate_ms:.3f} ms")
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.inputs.items())
    where = f"{numbered(result.threads, 'thread')}, {result.provider}{'; ' if sizes else ''}{escape(sizes)}"
    pairs, fast = f"{result.repeat} pairs", "times as fast"
    if result.outcome:
        median = f"median of {pairs}: {result.speedup:.2f}"
        said = f"{result.outcome}: {result.range} {fast} ({result.sure}, {median};"
    else:
        said = f"{result.speedup:.2f} {fast} (median of {pairs}, {result.sure}: {result.range};"
    console.print(f"{said} {where})")
