"""What became of several models, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.report.outcomes import Outcome
from graphopt.report.text.common import escape, fitted, table_of, terminal
from graphopt.report.wording import count, ratio


def batch(names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Prints a model a line, by the name that it has for people, then why each that failed did."""
    console = terminal()
    table = table_of("model", ">MACs", ">to", ">ratio", ">agreement", "outcome")
    for name, outcome in zip(names, outcomes, strict=True):
        table.add_row(escape(fitted(name, 30)), *_batch_figures(outcome), _state(outcome))
    console.print(table)
    for name, outcome in zip(names, outcomes, strict=True):
        if not outcome:
            known = outcome.error.startswith(f"{name}: ")
            console.print(escape(outcome.error if known else f"{name}: {outcome.error}"), soft_wrap=True)


def _batch_figures(outcome: Outcome) -> tuple[str, ...]:
    """MACs before and after, their ratio, and the agreement of a model."""
    if outcome.report is None:
        return "–", "–", "–", "–"
    before, after = (outcome.report[key]["macs"] for key in ("before", "after"))
    agreement = (outcome.report["quality"] or {}).get("agreement")
    shown = "–" if agreement is None else f"{agreement:.2%}"
    return count(before), count(after), ratio(before, after) or "–", shown


def _state(outcome: Outcome) -> str:
    """What became of a model, in a word or two."""
    if not outcome:
        return f"[bold red]failed ({outcome.exit_code})[/]"
    if outcome.report is not None and not outcome.report["changed"]:
        return "unchanged, can't be run" if outcome.report["warnings"] else "unchanged"
    return "smaller" if outcome.written is None else "written"
