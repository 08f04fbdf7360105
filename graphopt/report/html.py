"""The report and the sweep as HTML pages: one file each that opens offline. Needs `graphopt[html]`.

What a page says is gathered in `graphopt.report.page` as plain figures; how it looks is in its ``templates``.
A page holds no time of day, so that the same run gives the same page, but for what was timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from graphopt._version import __version__
from graphopt.analysis.diff import aligned
from graphopt.errors import InputError, lacking, printable
from graphopt.report.headline import headline
from graphopt.report.page import common, drawings, figures, layers, rewrites, spectra, tradeoff
from graphopt.report.page.common import MOST_ROWS, Facts
from graphopt.report.page.drawing import BOX
from graphopt.report.results import Result, Sensitivities, Sweep
from graphopt.report.wording import (
    count,
    decibels,
    kind,
    model_name,
    not_verified,
    output_sqnr,
    percent,
    small,
)

TEMPLATES = Path(__file__).parent / "page" / "templates"
LIMIT = 1_500_000
"""Bytes of a page: what stands in long lists is left out until it fits."""


def require(what: object = "a page") -> None:
    """Makes sure that the libraries which make pages are there.

    Args:
        what: what asks for them.

    Raises:
        InputError: one of them is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        raise InputError(lacking(str(what), "html")) from None


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


def sensitivity(result: Sensitivities) -> str:
    """The page of ``graphopt sensitivity --html``: the layers as a table, that which costs the most first.

    Raises:
        InputError: `graphopt[html]` is not installed.
    """
    require()
    return _fitted("sensitivity.html", lambda scale: _sensitivity(result, scale))


def _fitted(template: str, facts: Callable[[float], Facts]) -> str:
    """The page, with as much of its long lists as fits."""
    scale = 1.0
    while True:
        page = _render(template, facts(scale))
        if len(page.encode(errors="replace")) <= LIMIT or scale < 0.01:
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
    environment.filters.update(
        (each.__name__, each) for each in (count, decibels, kind, output_sqnr, percent, small)
    )
    page = environment.get_template(template).render(version=__version__, **facts)
    return printable(str(page), keep="\n\t")


def _report(result: Result, problem: str, scale: float) -> Facts:
    data = result.report
    every = rewrites.rewrites(data)
    rows, rows_hidden = common.limited(every, int(MOST_ROWS * scale))
    checks = sorted(data.checks, key=lambda check: (check.passed, check.scope.startswith("region ")))
    shown, checks_hidden = common.limited(checks, int(MOST_ROWS * scale))
    drawn, drawings_hidden, undrawn = drawings.drawings(result, int(drawings.MOST_DRAWINGS * scale))
    return {
        "title": f"graphopt: {model_name(data.source)}",
        "name": model_name(data.source),
        "model": data.source,
        "alerts": figures.alerts(data, problem),
        "remarks": figures.remarks(data),
        "headline": headline(data),
        "cards": figures.cards(data),
        "judged": figures.judged(data) if data.gates else [],
        "layers": layers.layers(aligned(result.before, result.after), scale),
        "assumed": data.before.macs is None,
        "rewrites": rows,
        "approximate": bool(data.approximate),
        "rewrites_hidden": rows_hidden,
        "counts": Counter(row["status"] for row in every),
        "drawings": drawn,
        "drawings_hidden": drawings_hidden,
        "undrawn": undrawn,
        "box": BOX,
        "spectra": spectra.spectra(data, int(spectra.MOST_SPECTRA * scale)),
        "curve": tradeoff.curve(data.curve, data.before, None) if len(data.curve) > 1 else None,
        "checks": shown,
        "checks_hidden": checks_hidden,
        "notes": any(check.note for check in data.checks),
        "failed": sum(not check for check in data.checks),
        "not_verified": not_verified(data),
        "uncounted": data.uncounted_ops,
        "seconds": data.seconds,
        "options": common.options(data.options),
    }


def _sweep(result: Sweep, scale: float) -> Facts:
    return {
        "title": f"graphopt sweep: {model_name(result.source)}",
        "name": model_name(result.source),
        "model": result.source,
        "alerts": [],
        "remarks": list(result.notes),
        "before": result.before,
        "curve": tradeoff.curve(result.points, result.before, scale),
        "seconds": result.seconds,
        "options": common.options(result.options),
    }


def _sensitivity(result: Sensitivities, scale: float) -> Facts:
    shown, hidden = common.limited(result.layers, int(MOST_ROWS * scale))
    return {
        "title": f"graphopt sensitivity: {model_name(result.source)}",
        "name": model_name(result.source),
        "model": result.source,
        "alerts": [],
        "remarks": list(result.notes),
        "layers": shown,
        "hidden": hidden,
        "error": result.error,
        "seconds": result.seconds,
        "options": common.options(result.options),
    }
