"""The charts of the HTML pages, as SVG that needs no script. Needs vl-convert-python (`graphopt[html]`).

Colours are the page's CSS variables, so that a chart follows its light and dark scheme. A chart is drawn
for wide and for narrow screens, and the page shows the one that fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Mark: TypeAlias = Mapping[str, object]
"""Where a mark of a chart stands, what it is a part of, and the text of its tooltip."""
Spec: TypeAlias = dict[str, Any]

WIDE, NARROW = 950, 280
"""Widths of a chart in pixels."""
CONFIG: Spec = {
    "font": "system-ui, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "tickColor", "domainColor"), "var(--muted)"),
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 12,
    },
}
"""What all charts of a page look like."""
COLOURS = {"same": "var(--same)", "kept": "var(--kept)", "cut": "var(--cut)", "more": "var(--more)"}
"""Of the parts of a layer's MACs."""


def _svg(spec: Spec) -> str:
    """The chart as an ``svg`` element that scales; what a mark stands for becomes its tooltip."""
    import vl_convert

    text = str(vl_convert.vegalite_to_svg({"config": CONFIG, **spec}))
    text = re.sub(r' (?:xmlns|xmlns:xlink|version|class|role|aria-[a-z]+(?<!label))="[^"]*"', "", text)
    text = re.sub(
        r'<path aria-label="([^"]*)"([^>]*?)(?:/>|></path>)', r"<path\2><title>\1</title></path>", text
    )
    text = re.sub(r' aria-label="[^"]*"', "", text)
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def layers(rows: Sequence[Mark], narrow: bool = False) -> str:
    """A column a layer: what is left of its MACs, and what was cut.

    Args:
        rows: ``{"layer" (number), "part" (same, kept, cut or more), "macs", "text"}``, up to two a layer.
        narrow: for a small screen.
    """
    order = list(COLOURS)
    return _svg(
        {
            "width": NARROW if narrow else WIDE,
            "height": 200 if narrow else 260,
            "data": {"values": [{**row, "order": order.index(str(row["part"]))} for row in rows]},
            "mark": {"type": "bar", "binSpacing": 0, "stroke": None},
            "encoding": {
                "x": {
                    "field": "layer",
                    "type": "ordinal",
                    "scale": {"paddingInner": 0.2 if len(rows) < 300 else 0},
                    "axis": {
                        "title": "layer, in the order of the model",
                        "labelAngle": 0,
                        "labelOverlap": "greedy",
                        "labelSeparation": 6,
                        "ticks": False,
                    },
                },
                "y": {
                    "field": "macs",
                    "type": "quantitative",
                    "axis": {"title": "MACs", "format": "~s", "tickCount": 5, "domain": False},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": order, "range": list(COLOURS.values())},
                    "legend": None,
                },
                "order": {"field": "order", "type": "quantitative"},
                "description": {"field": "text"},
            },
        }
    )


def spectrum(values: Sequence[float], rank: int) -> str:
    """The part of a layer's output that each direction carries, descending; those that are kept stand out.

    Args:
        values: the parts, descending; they are drawn on a logarithmic scale.
        rank: how many are kept.
    """
    floor = max(values, default=1.0) * 1e-8
    rows = [
        {
            "n": i + 1,
            "v": max(value, floor),
            "part": "kept" if i < rank else "cut",
            "text": f"direction {i + 1}: {value:.3g}",
        }
        for i, value in enumerate(values)
    ]
    count = len(values)
    return _svg(
        {
            "width": 236,
            "height": 110,
            "data": {"values": rows},
            "mark": {"type": "point", "filled": True, "size": 14, "opacity": 1},
            "encoding": {
                "x": {
                    "field": "n",
                    "type": "quantitative",
                    "scale": {"domain": [0, count + 1], "nice": False},
                    "axis": {
                        "title": None,
                        "grid": False,
                        "values": sorted({1, rank, count}),
                        "labelOverlap": True,
                        "format": "d",
                    },
                },
                "y": {
                    "field": "v",
                    "type": "quantitative",
                    "scale": {"type": "log"},
                    "axis": {"title": None, "format": "~e", "tickCount": 4, "domain": False},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "scale": {"domain": ["kept", "cut"], "range": [COLOURS["kept"], COLOURS["cut"]]},
                    "legend": None,
                },
                "description": {"field": "text"},
            },
        }
    )


def tradeoff(rows: Sequence[Mark], quality: str, unit: str, narrow: bool = False) -> str:
    """Quality over cost, a point a network; the one that became the result stands out.

    Args:
        rows: ``{"macs" (part of the input's), "quality", "taken", "text"}``.
        quality: what the vertical axis is.
        unit: how its numbers are written, as a d3 format.
        narrow: for a small screen.

    Returns:
        The chart as SVG.
    """
    x = {
        "field": "macs",
        "type": "quantitative",
        "scale": {"zero": False, "padding": 12},
        "axis": {"title": "MACs, part of the input's", "format": ".0%", "tickCount": 6, "grid": False},
    }
    y = {
        "field": "quality",
        "type": "quantitative",
        "scale": {"zero": False, "padding": 12},
        "axis": {"title": quality, "format": unit, "tickCount": 5, "domain": False},
    }
    return _svg(
        {
            "width": NARROW if narrow else WIDE,
            "height": 200 if narrow else 260,
            "data": {"values": list(rows)},
            "layer": [
                {"mark": {"type": "line", "color": "var(--same)"}, "encoding": {"x": x, "y": y}},
                {
                    "mark": {"type": "point", "filled": True, "opacity": 1},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "size": {"condition": {"test": "datum.taken", "value": 170}, "value": 60},
                        "color": {
                            "condition": {"test": "datum.taken", "value": "var(--cut)"},
                            "value": "var(--kept)",
                        },
                        "description": {"field": "text"},
                    },
                },
            ],
        }
    )
