"""What a run did, as text for a terminal."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from graphopt.calibration.inputs import ONE_HELD_OUT_OF, SMALL_SAMPLE
from graphopt.report.headline import headline
from graphopt.report.results import Applied, Left, Report
from graphopt.report.text.common import (
    escape,
    fitted,
    print_totals,
    print_unknown,
    table_of,
    terminal,
    warnings,
)
from graphopt.report.wording import (
    by_group,
    comparisons,
    count,
    decibels,
    followed,
    not_verified,
    numbered,
    spans,
    verified,
)
from graphopt.types import Exactness

MOST_REASONS = 5
"""Reasons shown for what was not done; ``--verbose`` and the JSON report have all."""
MOST_LAYERS = 10
"""Approximated layers shown, those that save the most; ``--verbose`` has all."""


def report(result: Report, out: Path | None, *, verbose: bool = False) -> None:
    """Prints what a run did: the headline, figures, rewrites, verification, quality, and what was left.

    Args:
        result: the report.
        out: the model that was written.
        verbose: whether every layer and every reason is shown, those that are no news too.
    """
    console = terminal()
    warnings(console, result.warnings)
    written = "" if result.unchanged else " · not written" if out is None else " · written"
    console.print(f"[bold]{escape(headline(result) + written)}[/]")
    print_totals(console, result.before, result.after, result.latency)
    print_unknown(console, result.unknown_dims)
    _applied(console, result, verbose=verbose)
    _reasons(console, "declined", result.declined, len(result.declined) if verbose else MOST_REASONS)
    if verbose:
        _reasons(console, "rejected", result.rejected, len(result.rejected))
    elif not (result.changed and all(result.budget)):
        _reasons(console, "rejected", result.rejected, MOST_REASONS)
    if result.checks:
        state = verified(result) if result.passed else f"[bold red]{verified(result)}[/]"
        console.print(f"{state}: {comparisons(result.checks)}")
    if result.approximate:
        console.print(not_verified(result))
    _quality(console, result)
    _gates(console, result)
    for note in result.notes:
        console.print(escape(f"note: {note}"))
    if out is not None:
        console.print(escape(f"wrote {out}"), soft_wrap=True)  # a path in one piece can be copied
    step = _next(result, out)
    if step:
        console.print(escape(f"next: {step}"), soft_wrap=True)


def _next(result: Report, out: Path | None) -> str:
    """What goes further, or tells more; "" where nothing does."""
    if result.unloaded or not all((*result.budget, *result.gates)):
        return ""
    if not (result.changed or result.budget) and result.before.macs:
        return "--budget macs=0.7 --calibration FILE goes further than exact rewrites"
    if out is None or result.source.path is None or not result.changed:
        return ""
    both = shlex.join([str(result.source.path), str(out)])
    if result.latency is None and result.before.macs:
        return f"graphopt bench {both} measures the latency"
    if result.tuning is None and result.quality is not None and result.approximate:
        return f"graphopt tune {both} --calibration FILE -o TUNED.onnx fits all weights together"
    return ""


def _gates(console: Console, result: Report) -> None:
    """What was required, and what came out."""
    if not result.gates:
        return
    table = table_of("gate", ">measured", "")
    for item in result.gates:
        table.add_row(str(item.gate), item.told, "passed" if item else "[bold red]failed[/]")
    console.print(table)


def _applied(console: Console, result: Report, *, verbose: bool) -> None:
    for exactness, title in ((Exactness.EXACT, "exact"), (Exactness.EXPANDING, "expanding, the MACs rise")):
        found = Counter(item.candidate.rewrite for item in result.applied if item.exactness is exactness)
        if found:
            console.print(f"{title}: " + ", ".join(f"{number} {name}" for name, number in found.items()))
    along = result.along
    if not result.approximate:
        return
    table = table_of("approximate", "form", ">MACs", ">to", ">predicted", ">error")
    items = [item for item in result.approximate if item not in along]
    dearest = sorted(items, key=lambda item: -(item.candidate.macs_saved or 0))[:MOST_LAYERS]
    shown = items if verbose else [item for item in items if item in dearest]
    for item in shown:
        table.add_row(*_approximate_row(item))
    console.print(table)
    if len(shown) < len(items):
        console.print(f"  {len(items) - len(shown)} more that save less: --verbose", style="dim")
    if along:
        console.print(escape(followed(along)))


def _approximate_row(item: Applied) -> tuple[str, ...]:
    candidate = item.candidate
    measured = "–" if item.error_measured is None else f"{item.error_measured:.4f}"
    return (
        escape(fitted(candidate.site.nodes[0])),
        escape(candidate.form),
        count(candidate.macs_before),
        count(candidate.macs_after),
        f"{candidate.error:.4f}",
        measured,
    )


def _reasons(console: Console, title: str, items: Sequence[Left], shown: int) -> None:
    """How often each rewrite was not done, some of the reasons, and what shows all of them."""
    if not items:
        return
    by_rewrite = Counter(item.rewrite for item in items)
    console.print(f"{title}: " + ", ".join(f"{number} {name}" for name, number in by_rewrite.items()))
    reasons = list(dict.fromkeys(f"  {item.rewrite}: {item.reason}" for item in items))
    for reason in reasons[:shown]:
        console.print(escape(reason), style="dim")
    if len(reasons) > shown:
        console.print(f"  {len(reasons) - shown} more: --verbose", style="dim")


def _quality(console: Console, result: Report) -> None:
    quality = result.kept
    if quality is not None:
        parts = [] if quality.agreement is None else [f"agreement {quality.agreement:.2%}"]
        parts.append(f"SQNR {decibels(quality.sqnr)}")
        share = f"1 in {ONE_HELD_OUT_OF} of those given"
        inputs = numbered(quality.samples, "held-out input")
        console.print(f"quality on {inputs} ({share}): {', '.join(parts)}")
        if quality.groups:
            console.print(escape(f"  {by_group(quality.groups)}"), style="dim")
        for text in spans(quality):
            console.print(f"  {text}", style="dim")
        if quality.interval is not None:
            console.print("  1 to 3 points too good if the network was trained on these inputs", style="dim")
        if quality.samples < SMALL_SAMPLE:
            few = f"{numbered(quality.samples, 'input')} {'is' if quality.samples == 1 else 'are'} few"
            console.print(f"  {few}: the figures are uncertain", style="dim")
    if result.metric is not None:
        for name, before, after, span in result.metric.shown:
            console.print(escape(f"{name}: {f'{before} → ' if before else ''}{after}{span}"))
    if result.unmeasured:
        console.print(
            "[bold yellow]the error is unmeasured[/]: no calibration inputs were given, "
            "the fit and its predicted error come from the weights and synthetic inputs"
        )
