"""The report as Markdown: a summary for a pull request, or for the page of a job.

GitHub's dialect, which GitLab reads too: tables, and ``<details>``. Names and reasons come from the model, so
that they are escaped: none can end a cell, begin a link, or mention anyone or anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from graphopt._version import __version__
from graphopt.errors import printable
from graphopt.report.headline import headline
from graphopt.report.outcomes import Outcome
from graphopt.report.page import figures
from graphopt.report.results import Applied, Left, Report, Sweep
from graphopt.report.wording import (
    count,
    decibels,
    largest,
    model_name,
    not_verified,
    numbered,
    point_rows,
    ranges,
    ratio,
    shortened,
    small,
    total_rows,
    verified,
)
from graphopt.types import MAIN_GRAPH, Exactness, Site
from graphopt.verification.verdict import Verdict

MOST_APPLIED = 20
"""Applied rewrites that are listed; of the others there is the number."""
MOST_LEFT = 40
"""Rewrites that were not done, and comparisons that failed, likewise."""
NAME, PROSE = 80, 300
"""Characters of a name and of a sentence; longer ones are cut in the middle."""

Lines: TypeAlias = list[str]

_SPECIAL = re.compile(r"[\\`*\[\]<>&|~#$@]|:(?=//)|(?<=www)\.|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
_MENTIONS = re.compile("&#(64|35);")
"""@ and #: who or what comes behind is mentioned, escaped or not, unless a joiner comes first."""


def report(result: Report, problem: str = "") -> str:
    """The summary of ``graphopt optimize --markdown``.

    Args:
        result: what a run did.
        problem: why no model was written; "" where nothing went wrong.
    """
    parts = [
        [f"## graphopt: {code(model_name(result.source))}"],
        *([f"**{prose(alert)}**"] for alert in figures.alerts(result, problem)),
        [f"**{prose(headline(result))}**"],
        _figures(result),
        _judged(result),
        _verification(result),
        [f"- {prose(remark)}" for remark in figures.remarks(result)],
        _applied(result.applied),
        _left(result),
        _signed(result),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def sweep(result: Sweep) -> str:
    """The summary of ``graphopt sweep --markdown``: each network, and what has to be known besides."""
    parts = [
        [f"## graphopt sweep: {code(model_name(result.source))}"],
        _table(*point_rows(result)),
        [f"- {prose(note)}" for note in result.notes],
        _signed(result),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _signed(result: Report | Sweep) -> Lines:
    """What made a summary, and of which file."""
    return [f"<sub>graphopt {__version__}, input SHA-256 {result.source.sha256}</sub>"]


def batch(names: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """The summaries of ``graphopt run`` and ``graphopt batch``.

    Args:
        names: what each model is called.
        outcomes: how each ended; of one without a report there is the reason.
    """
    return "\n\n".join(
        outcome.markdown or f"## graphopt: {code(name)}\n\n**{prose(outcome.error)}**"
        for name, outcome in zip(names, outcomes, strict=True)
    )


# ---------------------------------------------------------------- escaping


def code(name: str) -> str:
    """A name as code, whatever is in it."""
    line = _line(name, NAME)
    if line and not set(line) & set("`|\\"):
        return f"`{line}`"
    return (
        f"<code>{_escaped(line)}</code>"  # in a code span of a table these can't be escaped for every reader
    )


def prose(text: str) -> str:
    """A sentence on one line in which nothing is markup."""
    return _MENTIONS.sub(r"\g<0>&#8288;", _escaped(_line(text, PROSE)))


def _escaped(line: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", line)


def _line(text: str, most: int) -> str:
    return shortened(printable(" ".join(text.split())), most)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A table; ``>`` in front of a column's name aligns it to the right."""
    rules = ["---:" if name.startswith(">") else ":---" for name in columns]
    lines = ([name.lstrip(">") for name in columns], rules, *rows)
    return [f"| {' | '.join(cells)} |" for cells in lines]


# ---------------------------------------------------------------- parts


def _figures(result: Report) -> Lines:
    rows: list[tuple[str, ...]] = [
        (name, count(old), count(new), ratio(old, new))
        for name, old, new in total_rows(result.before, result.after)
    ]
    timing = result.latency
    if timing is not None:
        times = (f"{ms:.3f} ms" for ms in (timing.reference_ms, timing.candidate_ms))
        rows.insert(1, (f"latency, {numbered(timing.threads, 'thread')}", *times, f"{timing.ratio:.3f}"))
    quality = result.kept
    if quality is not None:
        inputs = f"on {numbered(quality.samples, 'held-out input')}"
        sure, (of_agreement, of_sqnr) = f"{100 * quality.confidence:g} %", ranges(quality)
        if quality.agreement is not None:
            span = f" ({sure}: {of_agreement})" if of_agreement else ""
            rows.append((f"agreement {inputs}", "", f"{quality.agreement:.2%}{span}", ""))
        span = f" ({sure}: {of_sqnr})" if of_sqnr else ""
        rows.append((f"SQNR {inputs}", "", f"{decibels(quality.sqnr)}{span}", ""))
        rows += [(f"SQNR of {code(name)}", "", decibels(sqnr), "") for name, sqnr in quality.groups.items()]
    if result.metric is not None:
        rows += [
            (code(name), before, f"{after}{span}", "") for name, before, after, span in result.metric.shown
        ]
    return _table(("", ">before", ">after", ">ratio"), rows)


def _judged(result: Report) -> Lines:
    rows = [
        (row["kind"], code(row["asked"]), row["figure"], "passed" if row["passed"] else "**failed**")
        for row in figures.judged(result)
    ]
    return _table(("", "asked for", ">measured", ""), rows) if rows else []


def _verification(result: Report) -> Lines:
    """What was verified, by which rules, and what was measured instead."""
    lines: Lines = []
    checks = result.checks
    failed = [check for check in checks if not check]
    if checks:
        parts = filter(None, (f"{numbered(len(checks), 'comparison')} in onnxruntime", largest(checks)))
        state = verified(result).capitalize()
        state = f"**{state}**: {len(failed)} of" if failed else f"{state}:"
        lines += [f"{state} {', '.join(parts)}."]
        if not failed and (rules := _rules(checks)):
            lines += ["", *_table(("compared", "output", ">relative", "rule, bound"), rules)]
    if result.approximate:
        lines += ["", f"{not_verified(result).capitalize()}."]
    if failed:
        rows = [(code(check.scope), code(check.output), prose(check.why)) for check in failed[:MOST_LEFT]]
        lines += ["", *_table(("compared", "output", ""), rows), *_more(len(failed) - len(rows))]
    return lines


def _rules(checks: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """By what each output of the whole model was judged; regions have one rule."""
    whole = [check for check in checks if not check.scope.startswith("region ")]
    return [
        (code(check.scope), code(check.compared), small(check.max_rel), prose(check.judged))
        for check in whole[:MOST_LEFT]
    ]


def _applied(applied: Sequence[Applied]) -> Lines:
    """Those that save most first, and as many as fit."""
    if not applied:
        return []
    fitted = any(not item.verified for item in applied)
    ordered = sorted(applied, key=lambda item: -item.candidate.macs_saved)
    shown, others = ordered[:MOST_APPLIED], ordered[MOST_APPLIED:]
    rows = []
    for item in shown:
        candidate, error = item.candidate, item.error_measured
        sizes = (item.macs_before, item.macs_after)
        predicted = small(candidate.error) if item.exactness is Exactness.APPROXIMATE else ""
        errors = (predicted, "" if error is None else small(error))
        chosen = prose(candidate.form) if candidate.choice else ""
        rows.append(
            (code(candidate.rewrite), _site(candidate.site), chosen, *map(count, sizes), *errors * fitted)
        )
    columns = ("rewrite", "layer", "form", ">MACs", ">to", *(">predicted", ">error") * fitted)
    by_name = _by_name(item.candidate.rewrite for item in others)
    return [
        f"### {numbered(len(applied), 'rewrite')} applied",
        "",
        *_table(columns, rows),
        *_more(len(others), by_name),
    ]


def _site(site: Site) -> str:
    more = f" and {len(site.nodes) - 1} more" if len(site.nodes) > 1 else ""
    graph = "" if site.graph == MAIN_GRAPH else f" in {code(site.graph)}"
    return f"{code(site.nodes[0])}{more}{graph}"


def _left(result: Report) -> Lines:
    """What was not done, folded away: how often each rewrite, and the reason that is most frequent."""
    kinds = (("declined", result.declined), ("rejected", result.rejected))
    rows = [row for kind, items in kinds for row in _grouped(kind, items)]
    if not rows:
        return []
    title = ", ".join(f"{len(items)} {kind}" for kind, items in kinds if items)
    columns = ("", "rewrite", ">sites", "reason, the most frequent")
    return [
        f"<details><summary>Not done: {title}</summary>",
        "",
        *_table(columns, rows[:MOST_LEFT]),
        *_more(len(rows) - MOST_LEFT),
        "",
        "</details>",
    ]


def _grouped(kind: str, items: Sequence[Left]) -> Iterable[tuple[str, ...]]:
    for rewrite, number in Counter(item.rewrite for item in items).most_common():
        reasons = Counter(item.reason for item in items if item.rewrite == rewrite)
        yield kind, code(rewrite), str(number), prose(reasons.most_common(1)[0][0])


def _more(number: int, what: str = "") -> Lines:
    """What a table leaves out."""
    return ["", f"and {number} more{what and f': {what}'}; the JSON report lists all"] if number > 0 else []


def _by_name(names: Iterable[str]) -> str:
    return ", ".join(f"{number} {code(name)}" for name, number in Counter(names).most_common())
