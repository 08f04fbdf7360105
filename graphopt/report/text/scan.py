"""What the operators of a model cost, as text for a terminal."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from graphopt.analysis.costs import quantised_note
from graphopt.analysis.linear import Linear
from graphopt.report.results import LayerRow, Scan
from graphopt.report.text.common import escape, fitted, print_unknown, table_of, terminal
from graphopt.report.wording import bytes_, count, kind, milliseconds, numbered, percent
from graphopt.types import Exactness

LEAST = 0.01
"""Part of the time from which a kind of operators has a line of its own."""


def scan(result: Scan) -> None:
    """Prints the operators by cost, then totals and what is not counted."""
    console = terminal()
    if not result.rows:
        console.print("no convolution, Gemm or MatMul")
    if result.rows or result.measured:
        console.print(_operators(result))
        console.print()
    totals = result.totals
    console.print(
        f"{count(totals.macs)} MACs ({count(totals.flops)} FLOPs), {count(totals.params)} parameters, "
        f"{bytes_(totals.weight_bytes)} of weights, {numbered(totals.nodes, 'operator')}"
    )
    if result.seconds is not None:
        how = "measured" if result.measured else "expected"
        console.print(f"{_sign(result)}{milliseconds(result.seconds)} ms {how} at one thread")
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


def _operators(result: Scan) -> Table:
    """The operators: linear ones, then the others by kind; all of them by time where it was measured."""
    timed = bool(result.others) or any(row.seconds is not None for row in result.rows)
    columns = (f">{_sign(result)}ms", ">time") if timed else ()
    table = table_of("operator", "kind", ">output", ">MACs", *columns, "could be")
    lines = [(row.seconds, _linear(row)) for row in result.rows]
    lines += [(seconds, (name, "", "", "", "")) for name, seconds in _others(result)]
    if result.measured:
        lines.sort(key=lambda line: -(line[0] or 0.0))
    for seconds, (*cells, ways) in lines:
        part = seconds / result.seconds if result.seconds and seconds is not None else None
        figures = (milliseconds(seconds), _part(part)) if timed else ()
        table.add_row(*cells, *figures, ways)
    return table


def _part(part: float | None) -> str:
    """A part of the time in four characters: 0.6%, 9.4%, 49%."""
    return "" if part is None else percent(part, 0 if part >= 0.0995 else 1)


def _sign(result: Scan) -> str:
    """What marks a time that was not measured."""
    return "" if result.measured else "≈"


def _linear(row: LayerRow) -> tuple[str, ...]:
    """The cells of a linear operator, but for its time."""
    channels = f"{row.linear.in_channels or '?'}→{row.linear.out_channels or '?'}"
    return (
        escape(fitted(row.linear.name)),
        f"{kind(row.linear)} {channels}",
        _spatial(row.linear),
        _macs(row),
        _opportunities(row),
    )


def _others(result: Scan) -> list[tuple[str, float]]:
    """The other operators by kind, each with its time; those that take next to none together."""
    if result.seconds is None or result.others is None:
        return []
    large = [row for row in result.others if row.seconds >= LEAST * result.seconds]
    rest = result.others[len(large) :]
    lines = [(escape(f"{row.number} {row.op}"), row.seconds) for row in large]
    if rest:
        number = sum(row.number for row in rest)
        lines.append((numbered(number, "other"), sum(row.seconds for row in rest)))
    return lines


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
