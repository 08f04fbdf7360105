"""The headline figures of a run, and what has to be read before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from graphopt.calibration.inputs import ONE_HELD_OUT_OF, SMALL_SAMPLE
from graphopt.report.page.common import Facts
from graphopt.report.results import Report
from graphopt.report.wording import bytes_, change, count, decibels, largest, numbered, spans
from graphopt.runtime.latency import Timing
from graphopt.types import Quality


def alerts(data: Report, problem: str) -> list[str]:
    """What has to be read before any figure."""
    found = [f"No model was written: {problem}"] if problem else []
    found += [f"{text[0].upper()}{text[1:]}." for text in data.warnings]
    if data.unmeasured:
        found.append(
            "The error is unmeasured: no calibration inputs were given, so the fit and its predicted error "
            "come from the weights and synthetic inputs."
        )
    return found


def remarks(data: Report) -> list[str]:
    """What has to be known to read the figures right."""
    found = list(data.notes)
    if data.unknown_dims:
        found.append(f'Unknown sizes: {", ".join(data.unknown_dims)}; the option "shapes" gives them.')
    if data.observed_shapes:
        seen = numbered(len(data.observed_shapes), "value")
        found.append(f"The shapes of {seen} were seen by running the model once.")
    return found


def judged(data: Report) -> list[Facts]:
    """The keys of the budget and the gates, with what the result has of each."""
    return [
        {"kind": kind, "asked": str(item.gate), "figure": item.told, "passed": item.passed}
        for kind, items in (("budget", data.budget), ("gate", data.gates))
        for item in items
    ]


class Card(NamedTuple):
    """A headline figure."""

    name: str
    value: str
    change: str
    note: str = ""


def cards(data: Report) -> list[Card]:
    """The headline figures."""
    before, after = data.before, data.after
    cards = [
        _card("MACs", before.macs, after.macs, note=f"{count(after.flops)} FLOPs"),
        _card("Parameters", before.params, after.params),
        _card("Weight bytes", before.weight_bytes, after.weight_bytes, write=bytes_),
        _card("Operators", before.nodes, after.nodes),
        _latency(data.latency),
    ]
    if data.kept is not None:
        cards.append(_quality(data.kept))
    if data.metric is not None:
        against = f"against the {data.metric.against}" if data.metric.against else "your own measure"
        for name, old, new, span in data.metric.shown:
            cards.append(Card(name, f"{new}{span}", f"{old} → {new}" if old else "", against))
    if data.checks:
        run = f"{numbered(len(data.checks), 'comparison')} in onnxruntime"
        what = "Verification, of the exact rewrites" if data.approximate else "Verification"
        cards.append(Card(what, "passed" if data.passed else "failed", run, largest(data.checks)))
    return cards


def _card(
    name: str, before: int | None, after: int | None, *, note: str = "", write: Callable[[float], str] = count
) -> Card:
    if before is None or after is None:
        return Card(name, "?", "a size is unknown")
    return Card(name, change(before, after), f"{write(before)} → {write(after)}", note)


def _latency(timing: Timing | None) -> Card:
    if timing is None:
        return Card("Latency", "not measured", "graphopt bench measures it", "MACs are not time")
    return Card(
        "Latency",
        timing.outcome or f"{timing.speedup:.2f} × as fast",
        f"{timing.reference_ms:.3f} → {timing.candidate_ms:.3f} ms, {numbered(timing.threads, 'thread')}",
        f"median of {timing.repeat} pairs, {timing.sure}: {timing.range} × as fast",
    )


def _quality(quality: Quality) -> Card:
    few = "; few, so uncertain" if quality.samples < SMALL_SAMPLE else ""
    inputs = f"on {numbered(quality.samples, 'held-out input')} (1 in {ONE_HELD_OUT_OF}){few}"
    told = "; ".join(spans(quality))
    if quality.agreement is None:
        return Card("Quality", decibels(quality.sqnr), told or "SQNR", inputs)
    about = f"SQNR {decibels(quality.sqnr)}{f'; {told}' if told else ''}"
    return Card("Quality", f"{quality.agreement:.2%} agreement", about, inputs)
