"""A trade-off between cost and quality, as chart and table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.report.page import charts
from graphopt.report.page.common import MOST_ROWS, Facts, limited
from graphopt.report.results import Point
from graphopt.report.wording import in_sight, percent
from graphopt.types import Totals


def curve(points: Sequence[Point], before: Totals, scale: float | None) -> Facts:
    """A trade-off as chart and table; with the layers of each network where a scale is given.

    Args:
        points: the networks, by cost.
        before: costs of the input.
        scale: part of the usual number of layers to show; None for none.

    Returns:
        What the page's template shows.
    """
    agreements = {p.quality.agreement for p in points if p.quality is not None} - {None}
    agreeing, flat = bool(agreements), len(agreements) < 2
    rows = [_point(point, before, scale) for point in points]
    measures = [("sqnr", "SQNR in dB", ".3~s")] if flat else [("agreement", "Agreement", ".1~%")]
    if any(point.metric is not None for point in points):
        measures.append(("metric", "Your own measure", ".4~g"))
    drawn = []
    for key, title, unit in measures:
        places = [
            {"macs": row["part"], "quality": row[key], "taken": row["taken"], "text": _spoken(row, key)}
            for row in rows
            if row["part"] is not None and row[key] is not None and not math.isnan(row[key])
        ]
        if key == "sqnr":
            heights = in_sight([place["quality"] for place in places])
            places = [{**place, "quality": at} for place, at in zip(places, heights, strict=True)]
        places = [place for place in places if math.isfinite(place["quality"])]
        if len(places) > 1:
            both = (charts.tradeoff(places, title, unit, narrow) for narrow in (False, True))
            drawn.append({"title": f"{title} over MACs", "wide": next(both), "narrow": next(both)})
    costs = [key for key in ("params", "bytes", "latency") if any(key in point.costs for point in points)]
    return {
        "rows": rows,
        "charts": drawn,
        "costs": costs,
        "agreeing": agreeing,
        "metric": any(point.metric is not None for point in points),
        "taken": any(point.taken for point in points),
    }


def _spoken(row: Mapping[str, Any], key: str) -> str:
    quality = percent(row[key], 2) if key == "agreement" else f"{row[key]:.4g}"
    return f"{percent(row['part'])} of the MACs: {key} {quality}, layers cut: {row['cut']}"


def _point(point: Point, before: Totals, scale: float | None) -> Facts:
    quality, part = point.quality, point.costs.get("macs")
    layers = point.chosen if scale is not None else ()
    shown, hidden = limited(layers, int(MOST_ROWS * (scale or 0)))
    return {
        "part": part,
        "macs": None if part is None or before.macs is None else round(part * before.macs),
        "costs": point.costs,
        **{key: getattr(quality, key, None) for key in ("agreement", "interval", "sqnr", "samples")},
        "metric": point.metric,
        "cut": len(point.chosen),
        "taken": point.taken,
        "hidden": hidden,
        "layers": [
            {
                "name": candidate.site.nodes[0],
                "form": candidate.form,
                "macs_before": candidate.macs_before,
                "macs_after": candidate.macs_after,
                "error": candidate.error,
            }
            for candidate in shown
        ],
    }
