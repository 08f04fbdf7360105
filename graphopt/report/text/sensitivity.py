"""Layers by what cutting them costs, as text for a terminal."""

from __future__ import annotations

from graphopt.report.results import Sensitivities
from graphopt.report.text.common import escape, fitted, table_of, terminal
from graphopt.report.wording import count, kind, output_sqnr, percent

NOTHING = "no layer could be made cheaper, so that none was probed"
"""What is said where the table would be empty."""


def sensitivity(result: Sensitivities) -> None:
    """Prints a layer a line, that which costs the most first."""
    console = terminal()
    if result.layers:
        even = percent(result.error, 0)
        table = table_of("layer", "kind", ">MACs", ">share", f">SQNR at {even}", ">halved", "by")
        for layer in result.layers:
            half = layer.halved
            table.add_row(
                escape(fitted(layer.linear.name)),
                kind(layer.linear),
                count(layer.linear.macs),
                percent(layer.share),
                output_sqnr(layer.damage),
                "–" if half is None else output_sqnr(half.damage),
                "–" if half is None else half.candidate.form,
            )
        console.print(table)
        console.print(f"SQNR of the outputs where this layer alone has an error of {even}, or half its MACs")
    else:
        console.print(NOTHING)
    for note in result.notes:
        console.print(escape(f"note: {note}"))
