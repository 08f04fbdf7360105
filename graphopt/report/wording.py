"""How figures and names are written, in whatever form a report takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphopt.analysis.linear import Linear
from graphopt.model.io import Source
from graphopt.report.results import Applied, Report, Sweep, Tuning
from graphopt.types import Quality, Totals
from graphopt.verification.verdict import Verdict

UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
"""Powers of 1,000 and what they are called."""


# ---------------------------------------------------------------- figures


def count(number: float | None) -> str:
    """A number with a unit, four digits: 4.089 G."""
    if number is None:
        return "?"
    for size, unit in UNITS:
        if abs(number) >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.4g}"


def bytes_(number: float | None) -> str:
    """Bytes with a unit: 512 B, 4.089 GB."""
    text = count(number)
    return f"{text}B" if " " in text else f"{text} B"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds in three digits: 0.031, 2.11, 21.4, 304."""
    if seconds is None:
        return ""
    ms = seconds * 1e3
    return f"{ms:.{0 if ms >= 100 else 1 if ms >= 10 else 2 if ms >= 1 else 3}f}"


def ratio(before: float | None, after: float | None) -> str:
    """After as a part of before."""
    return "" if not before or after is None else f"{after / before:.3f}"


def change(before: float, after: float) -> str:
    """How much less or more: −51.2 %."""
    if before == after:
        return "unchanged"
    if not before:
        return "new"
    part = after / before - 1
    return f"{'+' if part > 0 else '−'}{abs(part) * 100:.3g} %"


def by_group(groups: Mapping[str, float]) -> str:
    """The SQNR of groups of channels, in words."""
    return "SQNR by group: " + ", ".join(f"{name} {decibels(sqnr)}" for name, sqnr in groups.items())


def decibels(sqnr: float | None) -> str:
    """A signal-to-noise ratio: 25.3 dB, or what an infinite one means, or that there is none."""
    if sqnr is None:
        return "not measured"
    if math.isinf(sqnr):
        return "equal" if sqnr > 0 else "nothing in common"
    return f"{sqnr:.1f} dB"


def output_sqnr(damage: float) -> str:
    """The SQNR that an error leaves of the outputs, from their mean squared change over their variance."""
    return decibels(-10 * math.log10(damage) if damage > 0 else math.inf)


ROUNDING = 80.0
"""Decibels from which an error is that of rounding: what float32 leaves of sums of thousands of numbers."""


def in_sight(decibels: Sequence[float]) -> list[float]:
    """Figures for an axis: what is equal up to rounding stands a little above the best of the others.

    Args:
        decibels: of networks; infinite where one is equal.

    Returns:
        The places on the axis.
    """
    others = [each for each in decibels if each <= ROUNDING]
    if not others:
        top = max([ROUNDING, *filter(math.isfinite, decibels)])
        return [min(each, top) for each in decibels]
    best, worst = max(others), min(others)
    step = ((best - worst) or abs(best) or 1.0) / 10
    return [min(each, best + step) for each in decibels]


def percent(part: float | None, digits: int = 1) -> str:
    """A part of the whole: 48.9%."""
    return "–" if part is None else f"{part:.{digits}%}"


def small(value: float | None) -> str:
    """An error or a difference: 3.4e-07."""
    return "–" if value is None or not math.isfinite(value) else "0" if value == 0 else f"{value:.2g}"


def numbered(number: int, what: str) -> str:
    """So many of something: 1 thread, 2 threads."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def total_rows(before: Totals, after: Totals) -> list[tuple[str, int | None, int | None]]:
    """What the figures of a model are called, each before and after."""
    return [
        ("MACs", before.macs, after.macs),
        ("parameters", before.params, after.params),
        ("weight bytes", before.weight_bytes, after.weight_bytes),
        ("operators", before.nodes, after.nodes),
    ]


def point_rows(result: Sweep) -> tuple[list[str], list[list[str]]]:
    """The networks of a sweep as a table: its columns, ``>`` in front of their names, and a row for each."""
    agreeing = any(p.quality is not None and p.quality.agreement is not None for p in result.points)
    measured = any(p.metric is not None for p in result.points)
    columns = [">MACs", ">of input", ">latency", *([">agreement"] if agreeing else []), ">SQNR"]
    rows = []
    for point in result.points:
        quality, part = point.quality, point.costs.get("macs")
        rows.append(
            [
                count(None if part is None or result.before.macs is None else part * result.before.macs),
                "" if part is None else f"{part:.3f}",
                f"{point.costs['latency']:.3f}" if "latency" in point.costs else "–",
                *(
                    [f"{quality.agreement:.2%}" if quality and quality.agreement is not None else "–"]
                    * agreeing
                ),
                "–" if quality is None else decibels(quality.sqnr),
                *([f"{point.metric:.4g}" if point.metric is not None else "–"] * measured),
                str(len(point.chosen)),
            ]
        )
    return [*columns, *([">metric"] if measured else []), ">layers cut"], rows


def largest(checks: Sequence[Verdict]) -> str:
    """The largest relative difference of some comparisons; "" where none has one."""
    known = [check.max_rel for check in checks if math.isfinite(check.max_rel)]
    return f"largest relative difference {max(known):.1e}" if known else ""


def comparisons(checks: Sequence[Verdict]) -> str:
    """How many there are, and the largest difference: 15 comparisons, largest relative difference 6.8e-07."""
    return ", ".join(filter(None, (numbered(len(checks), "comparison"), largest(checks))))


def verified(result: Report) -> str:
    """What a run verified: everything, or the exact rewrites alone where there are others."""
    if not result.checks:
        return ""
    state = "verified" if result.passed else "verification failed"
    return f"{state}, of the exact rewrites" if result.approximate else state


def not_verified(result: Report) -> str:
    """What a run did not verify, and what it knows of it instead; "" where all is verified."""
    fitted = result.approximate
    if not fitted:
        return ""
    number = numbered(len(fitted), "approximate rewrite")
    if result.quality is None:
        return f"neither verified nor measured: {number}"
    layers = sum(item.measured for item in fitted)
    inputs = f"on {numbered(result.quality.samples, 'held-out input')}"
    return f"measured, not verified: {number} ({layers} alone, and all together, {inputs})"


def followed(along: Sequence[Applied]) -> str:
    """What came along with the rewrites that save: 3 layers behind them fitted anew, errors 0.01 to 0.2."""
    errors = [item.error_measured for item in along if item.error_measured is not None]
    shown = f", errors {small(min(errors))} to {small(max(errors))}" if errors else ""
    return f"{numbered(len(along), 'layer')} behind them fitted anew{shown}"


def ranges(quality: Quality) -> tuple[str, str]:
    """The intervals of agreement and SQNR; "" where there is none that tells something."""
    agreed, sqnr = quality.interval, quality.sqnr_interval
    finite = sqnr is not None and all(map(math.isfinite, sqnr))
    return (
        "" if agreed is None else f"{agreed[0]:.1%} to {agreed[1]:.1%}",
        "" if sqnr is None or not finite else f"{sqnr[0]:.1f} to {sqnr[1]:.1f} dB",
    )


def spans(quality: Quality) -> list[str]:
    """The intervals of agreement and SQNR, each with what it is of."""
    pairs = zip(("agreement", "SQNR"), ranges(quality), strict=True)
    sure = f"{100 * quality.confidence:g} % interval"
    return [f"{sure} of the {of}: {span}" for of, span in pairs if span]


# ---------------------------------------------------------------- models and layers


def tuning_note(told: Tuning, *, kept: bool, broken: str = "") -> str:
    """How the weights of a network were fitted together.

    Args:
        told: what happened.
        kept: whether the network is another one for it.
        broken: what was asked for that the network keeps without it alone, in words; "" for nothing.

    Returns:
        A sentence; that nothing came of it where nothing did.
    """
    run = f"{numbered(told.steps, 'step')} of {numbered(told.batch, 'input')}"
    if broken:
        return f"tuning by {run} was left out: without it the network keeps what was asked for: {broken}"
    if not kept:
        return f"tuning by {run} did not bring the network nearer to the original: left out"
    errors = dict(told.curve)
    return (
        f"tuned by {run}: error on {told.apart} inputs apart {errors[0]:.4f} → {errors[told.best]:.4f}; "
        "errors of layers are those before it"
    )


def still_note(told: Tuning) -> str:
    """That weights could not move while a network was tuned, and why; "" where all could."""
    if not told.still:
        return ""
    why = f"no rule leads through {', '.join(told.stopped)}" if told.stopped else "no output depends on them"
    return f"{numbered(told.still, 'weight')} could not be tuned: {why}"


def model_name(source: Source) -> str:
    """The file's name."""
    return "model in memory" if source.path is None else source.path.name


def shortened(name: str, width: int = 26) -> str:
    """The name, cut in the middle so that both ends can be read."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[-(width - 1 - head) :]}"


def kind(linear: Linear) -> str:
    """Kernel, stride, dilation and groups of a layer: 3x3/2 dw."""
    if not linear.kernel:
        return linear.op
    op = {"Conv": "", "ConvTranspose": "T "}[linear.op]
    form = "x".join(str(k) for k in linear.kernel)
    extra = "".join(
        (
            f"/{_each(linear.form.strides)}" if linear.form.strided else "",
            f" d{_each(linear.form.dilations)}" if any(d != 1 for d in linear.form.dilations) else "",
            " dw" if linear.depthwise else f" g{linear.group}" if linear.group > 1 else "",
        )
    )
    return f"{op}{form}{extra}"


def _each(numbers: Sequence[int]) -> str:
    """One number an axis, such as 2x1; one alone where all are the same."""
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def layer_form(linear: Linear) -> str:
    """Kernel and channels of a layer: 3x3/2 64→128."""
    return f"{kind(linear)} {linear.in_channels or '?'}→{linear.out_channels or '?'}"
