"""Every layer before and after, and the chart of their MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.analysis.diff import LayerChange
from graphopt.analysis.linear import Linear
from graphopt.report.page import charts
from graphopt.report.page.common import MOST_ROWS, Facts, limited
from graphopt.report.wording import count, layer_form

MOST_COLUMNS = 400
"""Layers in the chart of MACs; those with the most MACs are shown."""
MOST_NAMES = 4
"""Names of layers that share a column."""
LEGEND = (
    ("same", "unchanged"),
    ("kept", "changed: what remains"),
    ("cut", "changed: cut"),
    ("more", "changed: added"),
)
"""What the parts of a layer's column are called."""


def _forms(linears: Sequence[Linear]) -> str:
    return ", ".join(layer_form(item) for item in linears) or "–"


def layers(changes: Sequence[LayerChange], scale: float) -> Facts:
    """Every layer before and after, and the chart of their MACs."""
    rows: list[Facts] = [
        {
            "number": number,
            "name": _names(layer.before or layer.after),
            "layers": len(layer.before or layer.after),
            "before": _forms(layer.before),
            "after": _forms(layer.after),
            "macs_before": layer.macs_before if layer.before else 0,
            "macs_after": layer.macs_after if layer.after else 0,
            "rewrites": ", ".join(layer.rewrites),
            "changed": layer.change not in ("same", "weights"),
        }
        for number, layer in enumerate(changes, 1)
    ]
    sized = [row for row in rows if row["macs_before"] is not None and row["macs_after"] is not None]
    largest = sorted(sized, key=lambda row: -max(row["macs_before"], row["macs_after"]))
    drawn = {row["number"] for row in largest[: int(MOST_COLUMNS * scale)]}
    parts = [part for row in sized if row["number"] in drawn for part in _parts(row)]
    shown, hidden = limited(rows, int(MOST_ROWS * scale))
    return {
        "rows": shown,
        "hidden": hidden,
        "drawn": len(drawn),
        "undrawn": len(rows) - len(drawn),
        "wide": charts.layers(parts) if parts else "",
        "narrow": charts.layers(parts, narrow=True) if parts else "",
        "legend": [item for item in LEGEND if any(part["part"] == item[0] for part in parts)],
        "summary": _summary(rows, sized),
    }


def _names(linears: Sequence[Linear]) -> str:
    shown, more = limited([item.name for item in linears], MOST_NAMES)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _summary(rows: Sequence[Facts], sized: Sequence[Facts]) -> str:
    """What the chart of MACs shows, in words."""
    every, changed = (sum(row["layers"] for row in rows if row["changed"] or x) for x in (True, False))
    if not changed:
        return f"None of the {every} layers changed its form; their MACs are as they were."
    differences = [row["macs_before"] - row["macs_after"] for row in sized]
    cut, added = sum(d for d in differences if d > 0), -sum(d for d in differences if d < 0)
    both = [f"{count(cut)} MACs cut"] * bool(cut) + [f"{count(added)} MACs added"] * bool(added)
    what = " and ".join(both) or "as many MACs as before"
    merged = " Layers that became one share a column." if every > len(rows) else ""
    return f"{changed} of {every} layers changed: {what}.{merged}"


def _parts(row: Mapping[str, Any]) -> list[Facts]:
    """The parts of a layer's column, as `charts.layers` takes them."""
    before, after = row["macs_before"], row["macs_after"]
    text = f"{row['number']} {row['name']}: {row['before']}"
    text += (
        f" → {row['after']}, {count(before)} → {count(after)} MACs"
        if row["changed"]
        else f", {count(after)} MACs"
    )
    sizes = {
        "kept" if row["changed"] else "same": min(before, after),
        "cut": max(before - after, 0),
        "more": max(after - before, 0),
    }
    return [
        {"layer": row["number"], "part": part, "macs": macs, "text": text}
        for part, macs in sizes.items()
        if macs or part == "same"
    ]
