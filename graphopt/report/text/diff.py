"""What changed between two models, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from graphopt.analysis.diff import Diff
from graphopt.analysis.linear import Linear
from graphopt.report.text.common import escape, fitted, print_totals, table_of, terminal
from graphopt.report.wording import count, layer_form, numbered

MOST_NAMES = 8
"""Names shown of operators that differ; the JSON document has all."""


def diff(result: Diff) -> None:
    """Prints both models' figures, the layers that changed, and how often each operator stands in both."""
    console = terminal()
    print_totals(console, result.totals_before, result.totals_after)
    shown = [layer for layer in result.layers if layer.change != "weights"]
    if shown:
        table = table_of("layer", "before", "after", ">MACs", ">to", "by")
        table.columns[0].overflow = table.columns[5].overflow = "fold"  # names often differ in the middle
        table.columns[1].no_wrap = table.columns[2].no_wrap = True
        for layer in shown:
            first = (layer.before or layer.after)[0]
            table.add_row(
                escape(fitted(first.name, 60)),
                _forms(layer.before) or "–",
                _forms(layer.after) or "–",
                count(layer.macs_before) if layer.before else "–",
                count(layer.macs_after) if layer.after else "–",
                ", ".join(layer.rewrites) or (layer.change if layer.change != "changed" else ""),
            )
        console.print()
        console.print(table)
        console.print()
    _named(console, "weights differ", [layer.after[0].name for layer in result.layers if layer not in shown])
    _named(console, "attributes differ", [item.name for item in result.other if item.attributes])
    _named(console, "constants differ", [item.name for item in result.other if item.constants])
    if result.operators:
        changes = ", ".join(
            f"{op} {old}→{new}".replace(" ", "\u00a0") for op, (old, new) in result.operators.items()
        )
        console.print(escape(f"operators: {changes}"))
    if result.interface:
        console.print(escape(f"interface: {result.interface}"))
    if not result:
        console.print("no difference: the same layers, weights and operators")
    else:
        verb = "is" if result.same_layers == 1 else "are"
        console.print(f"{numbered(result.same_layers, 'layer')} {verb} the same")


def _forms(linears: Sequence[Linear]) -> str:
    """Kernel and channels of some layers, one a line."""
    return "\n".join(layer_form(linear).replace(" ", "\u00a0") for linear in linears)


def _named(console: Console, lead: str, names: Sequence[str]) -> None:
    """Some names, and how many there are."""
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        listed = ", ".join(fitted(name) for name in names[:MOST_NAMES])
        console.print(escape(f"{lead} ({len(names)}): {listed}{more}"))
