"""What the operators of a model cost, as text for a terminal."""

from __future__ import annotations

from collections import Counter

from graphopt.analysis.costs import quantised_note
from graphopt.analysis.linear import Linear
from graphopt.report.results import LayerRow, Scan
from graphopt.report.text.common import escape, fitted, print_unknown, table_of, terminal
from graphopt.report.wording import bytes_, count, kind, numbered
from graphopt.types import Exactness


def scan(result: Scan) -> None:
    """Prints the operators by cost, then totals and what is not counted."""
    console = terminal()
    if not result.rows:
        console.print("no convolution, Gemm or MatMul")
    table = table_of("operator", "kind", ">channels", ">output", ">MACs", ">share", "could be")
    for row in result.rows:
        table.add_row(
            escape(fitted(row.linear.name)),
            kind(row.linear),
            f"{row.linear.in_channels or '?'}→{row.linear.out_channels or '?'}",
            _spatial(row.linear),
            _macs(row),
            "" if row.share is None else f"{row.share:.1%}",
            _opportunities(row),
        )
    if result.rows:
        console.print(table)
        console.print()
    totals = result.totals
    console.print(
        f"{count(totals.macs)} MACs ({count(totals.flops)} FLOPs), {count(totals.params)} parameters, "
        f"{bytes_(totals.weight_bytes)} of weights, {numbered(totals.nodes, 'operator')}"
    )
    exact = Counter(
        o.rewrite for row in result.rows for o in row.opportunities if o.exactness is Exactness.EXACT
    )
    if exact:
        console.print("exact rewrites apply: " + ", ".join(f"{n} {name}" for name, n in exact.items()))
    if result.uncounted_ops:
        counts = ", ".join(f"{n} {op}" for op, n in result.uncounted_ops.items())
        console.print(escape(f"not counted: {counts}"))
    quantised = quantised_note(result.uncounted_ops)
    if quantised:
        console.print(f"note: {quantised}")
    print_unknown(console, result.unknown_dims)
    if result.observed_shapes:
        console.print(
            f"shapes of {numbered(len(result.observed_shapes), 'value')} were seen by running the model once"
        )
    for note in result.notes:
        console.print(escape(f"note: {note}"))


def _spatial(linear: Linear) -> str:
    if linear.output_shape is None:
        return "?"
    sizes = linear.output_shape[2:] if linear.kernel else linear.output_shape[:-1]
    return "×".join("?" if s is None else str(s) for s in sizes)


def _macs(row: LayerRow) -> str:
    return count(row.macs) if row.runs == 1 else f"{count(row.linear.macs)} ×{count(row.runs)}"


def _opportunities(row: LayerRow) -> str:
    """The ways to fewer MACs; ≈ marks an approximate one, of which the cheapest stands for all."""
    saving = [o for o in row.opportunities if (o.macs_after or 0) < (row.linear.macs or 0)]
    exact = [o for o in saving if o.exactness is Exactness.EXACT]
    others = sorted(
        (o for o in saving if o.exactness is not Exactness.EXACT), key=lambda o: o.macs_after or 0
    )
    signs = {Exactness.APPROXIMATE: "≈"}
    return ", ".join(
        f"{signs.get(o.exactness, '')}{count(o.macs_after)} {o.rewrite}".replace(" ", "\u00a0", 1)
        for o in (*exact, *others[:1])
    )
