"""The report and the sweep as HTML pages: one file each that opens offline. Needs `graphopt[html]`.

What a page says is gathered here as plain figures; how it looks is in ``templates``. A page holds no time of
day, so that the same run gives the same page, but for what was timed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from graphopt._version import __version__
from graphopt.analysis import Totals
from graphopt.calibrate import ALL_PARTS, SMALL_SAMPLE
from graphopt.conv import Linear
from graphopt.core import Candidate, Exactness, Site, Verdict
from graphopt.errors import InputError
from graphopt.latency import Timing
from graphopt.model import Source
from graphopt.model_diff import LayerChange, aligned
from graphopt.quality import Quality
from graphopt.report import Applied, Left, Point, Report, Sweep, charts
from graphopt.report.drawing import BOX, Layout, layout
from graphopt.report.text import count, decibels, form, kind
from graphopt.result import Result
from graphopt.structure import Operator, Piece, Region, regions

Facts: TypeAlias = dict[str, Any]

TEMPLATES = Path(__file__).parent / "templates"
LIMIT = 1_900_000
"""Bytes of a page: what stands in long lists is left out until it fits."""
MOST_ROWS = 2000
"""Rows of a table."""
MOST_COLUMNS = 400
"""Layers in the chart of MACs; those with the most MACs are shown."""
MOST_DRAWINGS = 40
"""Changes that are drawn; alike ones are one."""
MOST_DRAWN = 24
"""Operators on one side of a drawing."""
MOST_SPECTRA = 24
"""Layers whose spectrum is shown."""
MOST_NAMES = 12
"""Names listed beside a drawing."""


def require() -> None:
    """Makes sure that the libraries which make pages are there.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"HTML needs graphopt[html] ({error.name} is not installed): pip install 'graphopt[html]'"
        ) from None


def report(result: Result, problem: str = "") -> str:
    """The page of ``graphopt optimize --html``.

    Args:
        result: what a run made.
        problem: why no model was written; "" where nothing went wrong.

    Raises:
        InputError: `graphopt[html]` is not installed.
    """
    require()
    return _fitted("report.html", lambda scale: _report(result, problem, scale))


def sweep(result: Sweep) -> str:
    """The page of ``graphopt sweep --html``: the trade-off as a chart, and each network with its layers.

    Raises:
        InputError: `graphopt[html]` is not installed.
    """
    require()
    return _fitted("sweep.html", lambda scale: _sweep(result, scale))


def _fitted(template: str, facts: Any) -> str:
    """The page, with as much of its long lists as fits."""
    scale = 1.0
    while True:
        page = _render(template, facts(scale))
        if len(page.encode()) <= LIMIT or scale < 0.01:
            return page
        scale /= 2


def _render(template: str, facts: Facts) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, decibels=decibels, percent=_percent, small=_small)
    return str(environment.get_template(template).render(version=__version__, **facts))


def _limited(items: Sequence[Any], most: int) -> tuple[Sequence[Any], int]:
    """The first of some, and how many are left out."""
    return items[:most], max(len(items) - most, 0)


def _percent(part: float | None, digits: int = 1) -> str:
    return "–" if part is None else f"{part:.{digits}%}"


def _small(value: float | None) -> str:
    """An error or a difference: 3.4e-07."""
    return "–" if value is None or not math.isfinite(value) else "0" if value == 0 else f"{value:.2g}"


# ---------------------------------------------------------------- the report


def _report(result: Result, problem: str, scale: float) -> Facts:
    data = result.report
    rows, rows_hidden = _limited(_rewrites(data), int(MOST_ROWS * scale))
    checks = sorted(data.checks, key=lambda check: (check.passed, check.scope.startswith("region ")))
    shown, checks_hidden = _limited(checks, int(MOST_ROWS * scale))
    drawings, drawings_hidden, undrawn = _drawings(result, int(MOST_DRAWINGS * scale))
    return {
        "title": f"graphopt: {_name(data.source)}",
        "model": _model(data.source),
        "alerts": _alerts(data, problem),
        "remarks": _remarks(data),
        "cards": _cards(data),
        "layers": _layers(aligned(result.before, result.after), scale),
        "assumed": data.before.macs is None,
        "rewrites": rows,
        "rewrites_hidden": rows_hidden,
        "counts": Counter(row["status"] for row in _rewrites(data)),
        "drawings": drawings,
        "drawings_hidden": drawings_hidden,
        "undrawn": undrawn,
        "box": BOX,
        "spectra": _spectra(data, int(MOST_SPECTRA * scale)),
        "curve": _curve(data.curve, data.before, None) if len(data.curve) > 1 else None,
        "checks": [_check(check) for check in shown],
        "checks_hidden": checks_hidden,
        "failed": sum(not check for check in data.checks),
        "uncounted": data.uncounted_ops,
        "seconds": data.seconds,
        "options": _options(data.options),
    }


def _name(source: Source) -> str:
    return "model in memory" if source.path is None else source.path.name


def _model(source: Source) -> Facts:
    return {
        "name": _name(source),
        "sha256": source.sha256,
        "bytes": source.bytes,
        "opset": source.model.opset_imports.get(""),
    }


def _alerts(data: Report, problem: str) -> list[str]:
    """What has to be read before any figure."""
    found = [f"No model was written: {problem}"] if problem else []
    if data.latency is not None and data.latency.speedup <= 1:
        timing = data.latency
        found.append(
            f"The model did not get faster: {timing.reference_ms:.3f} → {timing.candidate_ms:.3f} ms. "
            "--budget latency=0.7 plans by measured time."
        )
    if data.unmeasured:
        found.append(
            "The error is unmeasured: no calibration inputs were given, so the fit and its predicted error "
            "come from the weights alone."
        )
    return found


def _remarks(data: Report) -> list[str]:
    """What has to be known to read the figures right."""
    found = list(data.notes)
    if data.unknown_dims:
        found.append(f"Unknown sizes: {', '.join(data.unknown_dims)}; --shape NAME=… gives them.")
    if data.observed_shapes:
        found.append(f"The shapes of {len(data.observed_shapes)} values were seen by running the model once.")
    if not data.changed:
        found.append("Nothing to do: the model is as it was.")
    return found


def _cards(data: Report) -> list[Facts]:
    """The headline figures."""
    before, after = data.before, data.after
    cards = [
        _card("MACs", before.macs, after.macs, note=f"{count(after.flops)} FLOPs"),
        _card("Parameters", before.params, after.params),
        _card("Weight bytes", before.weight_bytes, after.weight_bytes, unit="B"),
        _card("Operators", before.nodes, after.nodes),
        _latency(data.latency),
    ]
    if data.quality is not None:
        cards.append(_quality(data.quality))
    if data.metric is not None:
        metric = data.metric
        cards.append(
            {
                "name": metric.name,
                "value": f"{metric.after:.4g}",
                "change": f"{metric.before:.4g} → {metric.after:.4g}",
                "note": "your own measure",
            }
        )
    if data.checks:
        known = [check.max_rel for check in data.checks if math.isfinite(check.max_rel)]
        cards.append(
            {
                "name": "Verification",
                "value": "passed" if data.passed else "failed",
                "change": f"{len(data.checks)} comparisons in onnxruntime",
                "note": f"largest relative difference {max(known):.1e}" if known else "",
            }
        )
    return cards


def _card(name: str, before: int | None, after: int | None, *, unit: str = "", note: str = "") -> Facts:
    if before is None or after is None:
        return {"name": name, "value": "?", "change": "a size is unknown", "note": ""}
    return {
        "name": name,
        "value": _change(before, after),
        "change": f"{_unit(before, unit)} → {_unit(after, unit)}",
        "note": note,
    }


def _unit(number: int, unit: str) -> str:
    text = count(number)
    return f"{text}{unit}" if " " in text else f"{text} {unit}".rstrip()


def _change(before: float, after: float) -> str:
    """How much less or more: −51.2 %."""
    if before == after:
        return "unchanged"
    if not before:
        return "new"
    part = after / before - 1
    return f"{'+' if part > 0 else '−'}{abs(part) * 100:.3g} %"


def _latency(timing: Timing | None) -> Facts:
    if timing is None:
        return {
            "name": "Latency",
            "value": "not measured",
            "change": "graphopt bench measures it",
            "note": "MACs are not time",
        }
    low, high = timing.spread
    threads = f"{timing.threads} thread" + ("" if timing.threads == 1 else "s")
    clear = "" if not low <= 1 <= high else "; no clear difference"
    return {
        "name": "Latency",
        "value": f"{timing.speedup:.2f} × as fast",
        "change": f"{timing.reference_ms:.3f} → {timing.candidate_ms:.3f} ms, {threads}",
        "note": f"median of {timing.repeat} pairs, 10–90 %: {low:.2f}–{high:.2f}{clear}",
    }


def _quality(quality: Quality) -> Facts:
    few = "; few, so uncertain" if quality.samples < SMALL_SAMPLE else ""
    inputs = f"on {quality.samples} held-out inputs (1 in {ALL_PARTS}){few}"
    if quality.agreement is None or quality.interval is None:
        return {"name": "Quality", "value": decibels(quality.sqnr), "change": "SQNR", "note": inputs}
    low, high = quality.interval
    return {
        "name": "Quality",
        "value": f"{quality.agreement:.2%} agreement",
        "change": f"95 % interval {low:.1%} to {high:.1%}; SQNR {decibels(quality.sqnr)}",
        "note": inputs,
    }


# ---------------------------------------------------------------- layers


def _forms(linears: Sequence[Linear]) -> str:
    return ", ".join(_linear(linear) for linear in linears) or "–"


def _linear(linear: Linear) -> str:
    return f"{kind(linear)} {linear.in_channels or '?'}→{linear.out_channels or '?'}"


def _layers(changes: Sequence[LayerChange], scale: float) -> Facts:
    """Every layer before and after, and the chart of their MACs."""
    rows = [
        {
            "number": number,
            "name": (layer.before or layer.after)[0].name,
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
    shown, hidden = _limited(rows, int(MOST_ROWS * scale))
    cut = sum(max(row["macs_before"] - row["macs_after"], 0) for row in sized)
    changed = sum(row["changed"] for row in rows)
    return {
        "rows": shown,
        "hidden": hidden,
        "drawn": len(drawn),
        "undrawn": len(rows) - len(drawn),
        "wide": charts.layers(parts) if parts else "",
        "narrow": charts.layers(parts, narrow=True) if parts else "",
        "parts": sorted({str(part["part"]) for part in parts}),
        "summary": f"{changed} of {len(rows)} layers changed; {count(cut)} MACs were cut in them.",
    }


def _parts(row: Mapping[str, Any]) -> list[Facts]:
    """The parts of a layer's column, as `charts.layers` takes them."""
    before, after = row["macs_before"], row["macs_after"]
    text = f"{row['number']} {row['name']}: {row['before']}"
    text += f" → {row['after']}, {count(before)} → {count(after)} MACs" if row["changed"] else f", {count(after)} MACs"
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


# ---------------------------------------------------------------- rewrites


def _rewrites(data: Report) -> list[Facts]:
    """Every rewrite that is applied, declined or rejected."""
    return [
        *(_applied(item) for item in data.applied),
        *(_left("declined", item) for item in data.declined),
        *(_left("rejected", item) for item in data.rejected),
    ]


def _applied(item: Applied) -> Facts:
    candidate = item.candidate
    sized = item.sized and candidate.before.macs is not None and candidate.after.macs is not None
    approximate = item.exactness is Exactness.APPROXIMATE
    return {
        **_site("applied", candidate.rewrite, candidate.site),
        "exactness": item.exactness.value,
        "macs_before": candidate.before.macs if sized else None,
        "macs_after": candidate.after.macs if sized else None,
        "saved": candidate.macs_saved if sized else None,
        "predicted": candidate.error if approximate else None,
        "measured": item.error_measured,
        "reason": _choice(candidate),
    }


def _choice(candidate: Candidate) -> str:
    return form(candidate) if candidate.choice else ""


def _left(status: str, item: Left) -> Facts:
    empty = dict.fromkeys(("macs_before", "macs_after", "saved", "predicted", "measured"))
    return {**_site(status, item.rewrite, item.site), "exactness": "", **empty, "reason": item.reason}


def _site(status: str, rewrite: str, site: Site) -> Facts:
    return {
        "status": status,
        "rewrite": rewrite,
        "site": site.nodes[0],
        "more": len(site.nodes) - 1,
        "graph": "" if site.graph == "main" else site.graph,
    }


# ---------------------------------------------------------------- structure


@dataclass(frozen=True)
class _Side:
    """One side of a drawing: where things are, and what is written on them."""

    layout: Layout
    operators: tuple[tuple[Operator, str, str], ...]
    text: str
    hidden: int


def _drawings(result: Result, most: int) -> tuple[list[Facts], int, int]:
    """The changes, alike ones as one, those that save most first; how many are left out, and sites in them."""
    alike: dict[Any, list[Region]] = {}
    for region in regions(result.before, result.after, result.report.applied):
        alike.setdefault(region.shape(_label), []).append(region)
    groups = sorted(alike.values(), key=lambda group: -sum(region.macs_saved for region in group))
    shown = []
    for group in groups[:most]:
        names, more = _limited([region.nodes[0] for region in group], MOST_NAMES)
        shown.append(
            {
                "rewrites": group[0].rewrites,
                "names": names,
                "more": more,
                "sites": len(group),
                "saved": sum(region.macs_saved for region in group),
                "sides": [_side(group[0].before), _side(group[0].after)],
            }
        )
    rest = groups[most:]
    return shown, len(rest), sum(len(group) for group in rest)


def _label(operator: Operator) -> str:
    return "\n".join(_lines(operator)) if operator.state != "port" else operator.op


def _lines(operator: Operator) -> tuple[str, str]:
    """What is written on an operator: what it is, and its channels and MACs."""
    linear = operator.linear
    if operator.state == "port":
        return operator.op, operator.name
    if linear is None:
        return operator.op, ""
    first = f"{linear.op} {kind(linear).removeprefix('T ')}" if linear.kernel else linear.op
    channels = f"{linear.in_channels or '?'}→{linear.out_channels or '?'}"
    return first, f"{channels} · {count(linear.macs)}"


def _side(piece: Piece) -> _Side:
    changed = piece.changed()
    names = Counter(item.op for item in changed)
    text = ", ".join(f"{number} {op}" if number > 1 else op for op, number in names.items()) or "nothing"
    if len(piece.operators) > MOST_DRAWN:
        return _Side(layout(0, ()), (), text, len(piece.operators))
    placed = layout(len(piece.operators), piece.edges)
    return _Side(placed, tuple((item, *_lines(item)) for item in piece.operators), text, piece.hidden)


# ---------------------------------------------------------------- spectra, curve


def _spectra(data: Report, most: int) -> Facts:
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


def _curve(points: Sequence[Point], before: Totals, scale: float | None) -> Facts:
    """A trade-off as chart and table; with the layers of each network where a scale is given."""
    agreeing = any(p.quality is not None and p.quality.agreement is not None for p in points)
    rows = [_point(point, before, scale) for point in points]
    measures = [("agreement", "Agreement", ".1~%")] if agreeing else [("sqnr", "SQNR in dB", ".3~s")]
    if any(point.metric is not None for point in points):
        measures.append(("metric", "Your own measure", ".4~g"))
    drawn = []
    for key, title, unit in measures:
        places = [
            {"macs": row["part"], "quality": row[key], "taken": row["taken"], "text": _spoken(row, key)}
            for row in rows
            if row["part"] is not None and row[key] is not None and math.isfinite(row[key])
        ]
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
    quality = _percent(row[key], 2) if key == "agreement" else f"{row[key]:.4g}"
    return f"{_percent(row['part'])} of the MACs: {key} {quality}, {row['cut']} layers cut"


def _point(point: Point, before: Totals, scale: float | None) -> Facts:
    quality, part = point.quality, point.costs.get("macs")
    layers = point.chosen if scale is not None else ()
    shown, hidden = _limited(layers, int(MOST_ROWS * (scale or 0)))
    return {
        "part": part,
        "macs": None if part is None or before.macs is None else round(part * before.macs),
        "costs": point.costs,
        "agreement": None if quality is None else quality.agreement,
        "interval": None if quality is None else quality.interval,
        "sqnr": None if quality is None else quality.sqnr,
        "samples": None if quality is None else quality.samples,
        "metric": point.metric,
        "cut": len(point.chosen),
        "taken": point.taken,
        "hidden": hidden,
        "layers": [
            {
                "name": candidate.site.nodes[0],
                "form": form(candidate),
                "macs_before": candidate.before.macs,
                "macs_after": candidate.after.macs,
                "error": candidate.error,
            }
            for candidate in shown
        ],
    }


# ---------------------------------------------------------------- verification, options


def _check(check: Verdict) -> Facts:
    return {
        "scope": check.scope,
        "output": check.output,
        "passed": check.passed,
        "relative": check.max_rel,
        "absolute": check.max_abs,
        "allowed": check.allowed,
        "sqnr": check.sqnr,
        "feeds": check.feeds,
        "note": check.note,
    }


def _options(options: Mapping[str, object]) -> dict[str, str]:
    """The options of a run by name, those that are set."""
    found: dict[str, str] = {}
    for name, value in options.items():
        if name == "rewrites" and isinstance(value, Mapping):
            found[name] = ", ".join(_rewrite(str(key), given) for key, given in value.items())
        elif isinstance(value, Mapping):
            found[name] = ", ".join(f"{key}={_plain(item)}" for key, item in value.items())
        else:
            found[name] = _plain(value)
    return {name: text for name, text in found.items() if text}


def _rewrite(name: str, options: Mapping[str, object]) -> str:
    given = ", ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    return f"{name} ({given})" if given else name


def _plain(value: object) -> str:
    if value is None or value is False:
        return ""
    if isinstance(value, (list, tuple)):
        return "×".join(map(str, value)) if all(isinstance(v, int) for v in value) else ", ".join(map(str, value))
    return "yes" if value is True else str(value)


# ---------------------------------------------------------------- the sweep


def _sweep(result: Sweep, scale: float) -> Facts:
    return {
        "title": f"graphopt sweep: {_name(result.source)}",
        "model": _model(result.source),
        "alerts": [],
        "remarks": list(result.notes),
        "before": result.before,
        "curve": _curve(result.points, result.before, scale),
        "seconds": result.seconds,
        "options": _options(result.options),
    }
