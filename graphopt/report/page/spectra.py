"""The singular-value spectra of a run's bottlenecks."""

from __future__ import annotations

import math

from graphopt.report.page import charts
from graphopt.report.page.common import Facts
from graphopt.report.results import Report

MOST_SPECTRA = 24
"""Layers whose spectrum is shown."""


def spectra(data: Report, most: int) -> Facts:
    """How much of a layer's output each direction carries, the layers that save most first."""
    found = [
        (item, key, values)
        for item in sorted(data.applied, key=lambda item: -item.candidate.macs_saved)
        for key, values in item.spectra.items()
        if len(values) > 1
    ]
    shown = []
    for item, key, values in found[:most]:
        rank = int(item.candidate.choice.get(key, 0)) or len(values)
        total = math.fsum(values)
        shown.append(
            {
                "name": item.candidate.site.nodes[0],
                "rewrite": item.candidate.rewrite,
                "key": key,
                "rank": rank,
                "full": len(values),
                "kept": math.fsum(values[:rank]) / total if total else 1.0,
                "sensitivity": item.sensitivity,
                "chart": charts.spectrum(values, rank),
            }
        )
    return {"items": shown, "hidden": len(found) - len(shown)}
