"""The report and the other results as text for a terminal, readable at 80 columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphopt.analysis import Totals
from graphopt.calibrate import ALL_PARTS, SMALL_SAMPLE
from graphopt.check import MISSED, Checked
from graphopt.conv import Linear
from graphopt.core import Exactness, Rewrite
from graphopt.cost import quantised_note
from graphopt.files import show
from graphopt.latency import Timing
from graphopt.model_diff import Diff
from graphopt.outcome import Outcome, labels
from graphopt.provenance import Record
from graphopt.report import Applied, Left, Point, Report, Sweep
from graphopt.report.wording import (
    bytes_,
    count,
    decibels,
    form,
    kind,
    largest,
    layer_form,
    numbered,
    ratio,
    shortened,
    total_rows,
)
from graphopt.rewrites import is_default, option_types, summary
from graphopt.survey import Row, Scan
from graphopt.verification import Verification

MOST_NAMES = 8
"""Names shown of operators that differ; the JSON document has all."""
MOST_PLACES = 5
"""Places shown of a recorded rewrite; the JSON document has all."""
DIGEST = 64
"""Characters of a SHA-256."""
MOST_REASONS = 5
"""Reasons shown for what was not done; the JSON report has all."""


NARROWEST = 80
"""Columns that a table has at least: on a terminal with fewer its lines go on in the next one."""


class _Console(Console):
    """The terminal; a table has room for what it says, whatever the terminal has."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as `Console.print`."""
        narrow = self.width < NARROWEST and any(isinstance(each, Table) for each in objects)
        if narrow:
            Console(highlight=False, width=NARROWEST).print(*objects, **options)
        else:
            super().print(*objects, **options)


def _console() -> Console:
    return _Console(highlight=False, soft_wrap=False)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    return table


# ---------------------------------------------------------------- scan


def scan(result: Scan) -> None:
    """Prints the operators by cost, then totals and what is not counted."""
    console = _console()
    if not result.rows:
        console.print("no convolution, Gemm or MatMul")
    table = _table("operator", "kind", ">channels", ">output", ">MACs", ">share", "could be")
    for row in result.rows:
        table.add_row(
            escape(shortened(row.linear.name)),
            kind(row.linear),
            f"{row.linear.in_channels or '?'}→{row.linear.out_channels or '?'}",
            _spatial(row.linear),
            count(row.linear.macs),
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
        _wrap(console, "exact rewrites apply: ", ", ".join(f"{n} {name}" for name, n in exact.items()))
    if result.uncounted_ops:
        _wrap(console, "not counted: ", ", ".join(f"{n} {op}" for op, n in result.uncounted_ops.items()))
    quantised = quantised_note(result.uncounted_ops)
    if quantised:
        console.print(f"note: {quantised}")
    if result.unknown_dims:
        _wrap(console, "unknown sizes: ", f"{', '.join(result.unknown_dims)}; --shape NAME=… gives them")
    if result.observed_shapes:
        console.print(f"shapes of {len(result.observed_shapes)} values were seen by running the model once")


def _wrap(console: Console, lead: str, text: str) -> None:
    console.print(escape(f"{lead}{text}"))


def _spatial(linear: Linear) -> str:
    if linear.output_shape is None:
        return "?"
    sizes = linear.output_shape[2:] if linear.kernel else linear.output_shape[:-1]
    return "×".join("?" if s is None else str(s) for s in sizes)


def _opportunities(row: Row) -> str:
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


# ---------------------------------------------------------------- optimize


def report(result: Report, out: Path | None) -> None:
    """Prints what a run did: figures, rewrites, verification, quality, and what was left."""
    console = _console()
    _not_faster(console, result.latency)
    _figures(console, result)
    _applied(console, result)
    _reasons(console, "declined", result.declined, MOST_REASONS)
    _reasons(console, "not possible", result.rejected, 0 if result.changed else MOST_REASONS)
    if result.checks:
        state = "verified" if result.passed else "[bold red]verification failed[/]"
        parts = filter(None, (numbered(len(result.checks), "comparison"), largest(result.checks)))
        console.print(f"{state}: {', '.join(parts)}")
    _quality(console, result)
    _gates(console, result)
    for note in result.notes:
        console.print(escape(f"note: {note}"))
    if not result.changed:
        console.print("nothing to do: the model is as it was")
    if out is not None:
        console.print(escape(f"wrote {out}"), soft_wrap=True)  # a path in one piece can be copied


def _gates(console: Console, result: Report) -> None:
    """What was required, and what came out."""
    if not result.gates:
        return
    table = _table("gate", ">measured", "")
    for item in result.gates:
        table.add_row(str(item.gate), item.figure, "passed" if item else "[bold red]failed[/]")
    console.print(table)


def _not_faster(console: Console, latency: Timing | None) -> None:
    """What comes first where it is so."""
    if latency is not None and latency.verdict:
        outcome, figures = latency.verdict.split(":", 1)
        advice = "--budget latency=0.7 plans by measured time"
        console.print(f"[bold yellow]{outcome}[/]:{figures}; {advice}")


def _figures(console: Console, result: Report) -> None:
    _totals(console, result.before, result.after, result.latency)
    if result.unknown_dims:
        console.print(escape(f"unknown sizes: {', '.join(result.unknown_dims)}; --shape NAME=… gives them"))


def _totals(console: Console, before: Totals, after: Totals, timing: Timing | None = None) -> None:
    table = _table("", ">before", ">after", ">ratio")
    for name, old, new in total_rows(before, after):
        table.add_row(name, count(old), count(new), ratio(old, new))
        if name == "MACs" and timing is not None:  # beside them: MACs are not time
            times = (f"{ms:.3f} ms" for ms in (timing.reference_ms, timing.candidate_ms))
            table.add_row("latency", *times, f"{timing.ratio:.3f}")
    console.print(table)


def _applied(console: Console, result: Report) -> None:
    for exactness, title in ((Exactness.EXACT, "exact"), (Exactness.EXPANDING, "expanding, the MACs rise")):
        found = Counter(item.candidate.rewrite for item in result.applied if item.exactness is exactness)
        if found:
            console.print(f"{title}: " + ", ".join(f"{number} {name}" for name, number in found.items()))
    approximate = [item for item in result.applied if item.exactness is Exactness.APPROXIMATE]
    if not approximate:
        return
    table = _table("approximate", "form", ">MACs", ">to", ">predicted", ">error")
    for item in approximate:
        table.add_row(*_approximate_row(item))
    console.print(table)


def _approximate_row(item: Applied) -> tuple[str, ...]:
    candidate = item.candidate
    measured = "–" if item.error_measured is None else f"{item.error_measured:.4f}"
    return (
        escape(shortened(candidate.site.nodes[0])),
        escape(form(candidate)),
        count(candidate.before.macs),
        count(candidate.after.macs),
        f"{candidate.error:.4f}",
        measured,
    )


def _reasons(console: Console, title: str, items: Sequence[Left], shown: int) -> None:
    """How often each rewrite was not done, and some of the reasons."""
    if not items:
        return
    by_rewrite = Counter(item.rewrite for item in items)
    console.print(f"{title}: " + ", ".join(f"{number} {name}" for name, number in by_rewrite.items()))
    reasons = list(dict.fromkeys(f"  {item.rewrite}: {item.reason}" for item in items))
    for reason in reasons[:shown]:
        console.print(escape(reason), style="dim")
    if len(reasons) > shown:
        console.print("  --report FILE.json lists the reasons" if not shown else "  …", style="dim")


def _quality(console: Console, result: Report) -> None:
    quality = result.quality
    if quality is not None:
        parts = [] if quality.agreement is None else [f"agreement {quality.agreement:.2%}"]
        parts.append(f"SQNR {decibels(quality.sqnr)}")
        share = f"1 in {ALL_PARTS} of those given"
        console.print(f"quality on {quality.samples} held-out inputs ({share}): {', '.join(parts)}")
        if quality.interval is not None:
            low, high = quality.interval
            console.print(f"  95 % interval of the agreement: {low:.1%} to {high:.1%}", style="dim")
            console.print("  1 to 3 points too good if the network was trained on these inputs", style="dim")
        if quality.samples < SMALL_SAMPLE:
            console.print(f"  {quality.samples} inputs are few: the figures are uncertain", style="dim")
    if result.metric is not None:
        metric = result.metric
        console.print(escape(f"{metric.name}: {metric.before:.4g} → {metric.after:.4g}"))
    if result.unmeasured:
        console.print(
            "[bold yellow]the error is unmeasured[/]: no calibration inputs were given, "
            "the fit and its predicted error come from the weights and synthetic inputs"
        )


# ---------------------------------------------------------------- run and batch


def batch(outcomes: Sequence[Outcome]) -> None:
    """Prints a model a line, then why each that failed did."""
    console = _console()
    table = _table("model", ">MACs", ">to", ">ratio", ">agreement", "outcome")
    names = labels([outcome.task for outcome in outcomes])
    for name, outcome in zip(names, outcomes, strict=True):
        table.add_row(escape(shortened(name, 30)), *_batch_figures(outcome), _state(outcome))
    console.print(table)
    for name, outcome in zip(names, outcomes, strict=True):
        if not outcome:
            known = outcome.error.startswith(f"{name}: ")
            console.print(escape(outcome.error if known else f"{name}: {outcome.error}"), soft_wrap=True)


def _batch_figures(outcome: Outcome) -> tuple[str, ...]:
    """MACs before and after, their ratio, and the agreement of a model."""
    if outcome.report is None:
        return "–", "–", "–", "–"
    before, after = (outcome.report[key]["macs"] for key in ("before", "after"))
    agreement = (outcome.report["quality"] or {}).get("agreement")
    shown = "–" if agreement is None else f"{agreement:.2%}"
    return count(before), count(after), ratio(before, after) or "–", shown


def _state(outcome: Outcome) -> str:
    """What became of a model, in a word or two."""
    if not outcome:
        return f"[bold red]failed ({outcome.exit_code})[/]"
    if outcome.report is not None and not outcome.report["changed"]:
        return "unchanged"
    return "smaller" if outcome.written is None else "written"


# ---------------------------------------------------------------- sweep

PLOT_ROWS = 10
"""Lines of the plot of a sweep."""


def sweep(result: Sweep) -> None:
    """Prints a network a line, then quality over MACs as a plot."""
    console = _console()
    agreeing = any(p.quality is not None and p.quality.agreement is not None for p in result.points)
    measured = any(p.metric is not None for p in result.points)
    columns = [">MACs", ">of input", ">latency", *([">agreement"] if agreeing else []), ">SQNR"]
    table = _table(*columns, *([">metric"] if measured else []), ">layers cut")
    for point in result.points:
        quality, part = point.quality, point.costs.get("macs")
        cells = [
            count(None if part is None or result.before.macs is None else part * result.before.macs),
            "" if part is None else f"{part:.3f}",
            f"{point.costs['latency']:.3f}" if "latency" in point.costs else "–",
            *([f"{quality.agreement:.2%}" if quality and quality.agreement is not None else "–"] * agreeing),
            "–" if quality is None else decibels(quality.sqnr),
            *([f"{point.metric:.4g}" if point.metric is not None else "–"] * measured),
            str(len(point.chosen)),
        ]
        table.add_row(*cells)
    console.print(table)
    agreements = {p.quality.agreement for p in result.points if p.quality is not None}
    _plot(console, result.points, agreement=len(agreements - {None}) > 1)
    for note in result.notes:
        console.print(escape(f"note: {note}"))


def _plot(console: Console, points: Sequence[Point], *, agreement: bool) -> None:
    """Quality of each network over its MACs, as wide as the terminal."""
    places = []
    for point in points:
        quality = point.quality
        value = None if quality is None else quality.agreement if agreement else quality.sqnr
        if value is not None and math.isfinite(value) and "macs" in point.costs:
            places.append((point.costs["macs"], value))
    if len(places) < 2:
        return
    left, right = min(x for x, _ in places), max(x for x, _ in places)
    low, high = min(y for _, y in places), max(y for _, y in places)
    width = max(20, min(console.width, 100) - 12)
    rows = [[" "] * width for _ in range(PLOT_ROWS)]
    for x, y in places:
        column = round((x - left) / ((right - left) or 1) * (width - 1))
        rows[round((high - y) / ((high - low) or 1) * (PLOT_ROWS - 1))][column] = "●"
    names = {0: high, PLOT_ROWS - 1: low}
    console.print("agreement over MACs" if agreement else "SQNR (dB) over MACs", style="bold")
    for number, row in enumerate(rows):
        value = names.get(number)
        label = "" if value is None else f"{value:.1%}" if agreement else f"{value:.1f}"
        console.print(f"{label:>8} │{''.join(row).rstrip()}")
    console.print(f"{'':>8} └{'─' * width}")
    console.print(f"{'':>9}{left:<.2f}{right:>{width - 4}.2f}")


# ---------------------------------------------------------------- the others


def verification(result: Verification) -> None:
    """Prints each comparison, then the outcome."""
    console = _console()
    table = _table("compared", "output", ">relative", ">allowed", ">SQNR", "")
    for check in result.checks:
        table.add_row(
            escape(check.scope),
            escape(check.output),
            "–" if math.isnan(check.max_rel) else f"{check.max_rel:.1e}",
            f"{check.allowed:g}" if math.isnan(check.max_rel) else f"{check.allowed:.1e}",
            decibels(check.sqnr),
            "passed" if check else "[bold red]failed[/]",
        )
    console.print(table)
    for text in (*result.notes, *(check.note for check in result.checks if check.note)):
        console.print(escape(f"note: {text}"))
    quality = all(math.isnan(check.max_rel) for check in result.checks)
    agree, differ = (
        ("the quality is kept", "the quality is not kept")
        if quality
        else ("the models agree", "the models differ")
    )
    console.print(agree if result else f"[bold red]{differ}[/]")


def timing(result: Timing) -> None:
    """Prints the latency of both and their ratio."""
    console = _console()
    console.print(f"reference {result.reference_ms:.3f} ms, candidate {result.candidate_ms:.3f} ms")
    low, high = result.spread
    clear = "" if result.clear else ", no clear difference"
    faster = "times as fast" + (": it got slower" if high < 1 else clear)
    where = f"{numbered(result.threads, 'thread')}, {result.provider}"
    console.print(
        f"{result.speedup:.2f} {faster} (median of {result.repeat} pairs, 10–90 %: "
        f"{low:.2f}–{high:.2f}; {where})"
    )


def rewrites(available: Sequence[Rewrite]) -> None:
    """Prints name, exactness, summary and options of each rewrite."""
    console = _console()
    for rewrite in available:
        state = rewrite.exactness.value + ("" if is_default(rewrite) else ", on request")
        console.print(f"[bold]{rewrite.name}[/] ({state})")
        console.print(escape(f"  {summary(rewrite)}"))
        for name, (type_, default) in option_types(rewrite).items():
            shown = "chosen by the plan" if default is None else default
            console.print(escape(f"  --set {rewrite.name}.{name}={type_} (default: {shown})"), style="dim")


# ---------------------------------------------------------------- check


def checked(each: Checked) -> None:
    """Prints one model on one line: what exact rewrites would do to it, or did."""
    if each.before is None or each.after is None:
        return
    what = "nothing to do"
    if each.rewrites:
        macs = _change(count(each.before.macs), count(each.after.macs), "MACs")
        operators = _change(str(each.before.nodes), str(each.after.nodes), "operators")
        names = ", ".join(f"{number} {name}" for name, number in each.rewrites.items())
        what = f"{'rewritten, ' if each.fixed else ''}{macs}, {operators}: {names}"
    _console().print(escape(f"{show(each.path)}: {what}"), soft_wrap=True)


def _change(before: str, after: str, what: str) -> str:
    return f"{before} {what} as before" if before == after else f"{before} → {after} {what}"


def check(models: Sequence[Checked]) -> None:
    """Prints the outcome for all models."""
    cheaper = sum(each.exit_code == MISSED for each in models)
    fixed = sum(each.fixed for each in models)
    failed = sum(bool(each.error) for each in models)
    parts = [
        f"{cheaper} could be made cheaper exactly (--fix does it)" if cheaper else "",
        f"{fixed} rewritten" if fixed else "",
        f"{failed} failed" if failed else "",
    ]
    _console().print(f"{numbered(len(models), 'model')}: {', '.join(filter(None, parts)) or 'nothing to do'}")


# ---------------------------------------------------------------- diff


def diff(result: Diff) -> None:
    """Prints both models' figures, the layers that changed, and how often each operator stands in both."""
    console = _console()
    _totals(console, result.totals_before, result.totals_after)
    shown = [layer for layer in result.layers if layer.change != "weights"]
    if shown:
        table = _table("layer", "before", "after", ">MACs", ">to", "by")
        table.columns[0].overflow = table.columns[5].overflow = "fold"  # names often differ in the middle
        table.columns[1].no_wrap = table.columns[2].no_wrap = True
        for layer in shown:
            first = (layer.before or layer.after)[0]
            table.add_row(
                escape(shortened(first.name, 60)),
                _forms(layer.before) or "–",
                _forms(layer.after) or "–",
                count(layer.macs_before) if layer.before else "–",
                count(layer.macs_after) if layer.after else "–",
                ", ".join(layer.rewrites) or (layer.change if layer.change != "changed" else ""),
            )
        console.print()
        console.print(table)
        console.print()
    _named(console, "weights differ", [layer.after[0].name for layer in result.layers if layer not in shown])
    _named(console, "attributes differ", [item.name for item in result.other if item.attributes])
    _named(console, "constants differ", [item.name for item in result.other if item.constants])
    if result.operators:
        changes = ", ".join(
            f"{op} {old}→{new}".replace(" ", "\u00a0") for op, (old, new) in result.operators.items()
        )
        _wrap(console, "operators: ", changes)
    if result.interface:
        _wrap(console, "interface: ", result.interface)
    if not result:
        console.print("no difference: the same layers, weights and operators")
    else:
        verb = "is" if result.same_layers == 1 else "are"
        console.print(f"{numbered(result.same_layers, 'layer')} {verb} the same")


def _forms(linears: Sequence[Linear]) -> str:
    """Kernel and channels of some layers, one a line."""
    return "\n".join(layer_form(linear).replace(" ", "\u00a0") for linear in linears)


def _named(console: Console, lead: str, names: Sequence[str]) -> None:
    """Some names, and how many there are."""
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        listed = ", ".join(shortened(name) for name in names[:MOST_NAMES])
        _wrap(console, f"{lead} ({len(names)}): ", f"{listed}{more}")


# ---------------------------------------------------------------- provenance


def provenance(model: Path, records: Sequence[Record], original: Path | None, run: int | None) -> None:
    """Prints what is recorded of each run, oldest first.

    Args:
        model: the file.
        records: what it has recorded.
        original: a file that a run may have read.
        run: the number of the run that did; None when there was none.
    """
    console = _console()
    if not records:
        console.print(escape(f"{show(model)}: graphopt has recorded nothing in it"), soft_wrap=True)
    for number, record in enumerate(records, start=1):
        if number > 1:
            console.print()
        console.print(escape(f"run {number} of {len(records)}, graphopt {record.version}"), style="bold")
        facts = _facts(record)
        names = max(map(len, record.options), default=0)
        wide = max(console.width, DIGEST + 2 + names)  # a digest in one piece can be copied
        Console(highlight=False, width=wide).print(facts)
        if record.rewrites:
            console.print(_rewritten(record))
    if run is not None and original is not None:
        console.print(escape(f"run {run} read {show(original)}"), soft_wrap=True)


def _facts(record: Record) -> Table:
    """What a run read and was asked for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("input", escape(record.input_sha256))
    for file, digest in record.input_data.items():
        table.add_row("", escape(digest))
        table.add_row("", escape(file))
    for name, value in record.options.items():
        if name == "calibration" and isinstance(value, dict) and "sha256" in value:
            table.add_row(escape(name), escape(str(value["sha256"])))  # in one piece it can be copied
            value = {key: item for key, item in value.items() if key != "sha256"}
            name = ""
        table.add_row(escape(name), escape(_spelled(value)))
    return table


def _spelled(value: object) -> str:
    """An option as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_spelled(item)}" for key, item in value.items())
    if isinstance(value, list):
        sizes = value and all(isinstance(item, int) for item in value)
        return ("x" if sizes else ", ").join(_spelled(item) for item in value)
    return str(value).encode("utf-8", "backslashreplace").decode()  # a lone surrogate can't be printed


def _rewritten(record: Record) -> Table:
    """What a run did: how often, and where."""
    table = _table("rewrite", "", ">times", "at")
    for item in record.rewrites:
        choices = [
            ", ".join(f"{key}={value}" for key, value in choice.items() if value) for choice in item.choices
        ]
        places = [
            escape(f"{name} ({choice})" if choice else name)
            for name, choice in zip_longest(item.nodes, choices, fillvalue="")
        ]
        more = len(places) - MOST_PLACES
        shown = [*places[:MOST_PLACES], f"… {more} more, which --json lists"] if more > 1 else places
        table.add_row(escape(item.rewrite), escape(item.exactness), str(len(item.nodes)), "\n".join(shown))
    return table
