"""Gates: what the finished result has to keep, and whether it does.

A gate is a key of a budget with a direction and a limit: ``macs<=0.8``, ``agreement>=0.99``. A budget is
gates that a network is made for; those that are required judge what came out, whatever it was made for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real

from graphopt.errors import InputError, Named, hint, percentage
from graphopt.planning import intervals
from graphopt.planning.budget import Budget
from graphopt.types import Figure, Interval

COSTS = ("macs", "params", "bytes", "latency")
"""Keys that are parts of the input's, and have to be at most the limit."""
SIZES = ("params", "bytes")
"""Those of them that a file is larger by."""
MEASURED = ("agreement", "sqnr")
"""Keys that are measured on calibration inputs."""
KEYS = tuple(f.name for f in fields(Budget) if f.name != "figures")
"""Keys that there are whatever is measured; a ready measure has its figures besides."""
SCORES, SIGNAL = 0.5, 3.0
"""Floors of agreement, and of an SQNR in dB: derived. Of class scores of which fewer than half name the
original's class, more answers are another's; at 3 dB, which is 10 log10 2, half of what varies is lost."""
MOST = 10.0
"""Times the input's cost from which a limit is taken for a slip: derived, per cent in the place of a part, of
0.1 and more."""

_FORM = re.compile(r"\s*(?P<key>[^\s<>=!:]+)\s*(?P<sign><=|>=|==|=<|=>|!=|<|>|=|:)\s*(?P<limit>\S+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the result has to keep.

    Attributes:
        key: a key of a budget.
        limit: for a cost the largest fraction of the input's, for a quality the smallest value, that passes.
        of: the figure of a measure that the key names; None for keys that there are without one.
    """

    key: str
    limit: float
    of: Figure | None = None

    @property
    def sign(self) -> str:
        """``<=`` for a cost and what falls, ``>=`` for a quality."""
        return sign(self.key, self.of)

    def __str__(self) -> str:
        short = f"{self.limit:g}"
        return f"{self.key}{self.sign}{short if float(short) == self.limit else repr(float(self.limit))}"

    def judge(self, measured: float | None, interval: Interval | None = None, inputs: int = 0) -> Judged:
        """Whether a figure passes; one that could not be had does not.

        Args:
            measured: the figure.
            interval: where it lies for all inputs, whose worse end has to pass; None for a figure that does.
            inputs: on so many it was measured.

        Returns:
            The verdict.
        """
        if measured is None or math.isnan(measured):
            return Judged(self, None, False)
        end = measured if interval is None else interval[self.sign == "<="]
        passed, needed = self._keeps(end), None
        undecided = self._keeps(measured) and not passed
        if undecided:
            least = self.of.least if self.of is not None else None if unit_of(self.key) else 0.0
            needed = intervals.needed(measured, end, self.limit, inputs, least=least)
        return Judged(self, measured, passed, interval, needed, undecided)

    def _keeps(self, figure: float) -> bool:
        return figure <= self.limit if self.sign == "<=" else figure >= self.limit


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of figures that were measured on some inputs, for all inputs of their kind.

    Attributes:
        intervals: of the figures, by key.
        inputs: how many they were.
        confidence: of the intervals.
    """

    intervals: Mapping[str, Interval]
    inputs: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A gate, and what the result has of it; truthy when it passes.

    Attributes:
        gate: what was asked for.
        measured: the result's figure, in the gate's unit; None where there is none.
        passed: whether it is within the limit, with the whole of its interval.
        interval: where the figure lies for all inputs; None where it was judged by itself.
        needed: inputs of which the interval would be narrow enough, about; None where nothing tells.
        undecided: whether the figure is within the limit, and its interval is not.
    """

    gate: Gate
    measured: float | None
    passed: bool
    interval: Interval | None = None
    needed: int | None = None
    undecided: bool = False

    def __bool__(self) -> bool:
        return self.passed

    @property
    def figure(self) -> str:
        """The measured figure as text, with its unit."""
        if self.measured is None:
            return "not measured"
        if math.isinf(self.measured):
            return "equal" if self.measured > 0 else "nothing in common"
        if self.gate.key == "metric":
            return self._written("{:.{}g}", 6)
        unit = unit_of(self.gate.key, self.gate.of)
        return self._written("{:.{}f} dB", 2) if unit else self._written("{:.{}f}", 4)

    @property
    def shortfall(self) -> str:
        """What a budget says of the figure that does not keep it."""
        cost = self.gate.key in COSTS
        figure = self.figure
        if self.measured is not None and math.isfinite(self.measured):
            figure = f"{self.measured:.4f} of the input's" if cost else f"{self.measured:.4g}"
        bound = "" if cost else "at most " if self.gate.sign == "<=" else "at least "
        return f"{self.gate.key} {figure}{self.range}, {bound}{self.gate.limit:g} asked for"

    @property
    def told(self) -> str:
        """The figure as text, with its interval."""
        return f"{self.figure}{self.range}"

    @property
    def range(self) -> str:
        """The interval as text, in brackets, where the figure passes without it; "" elsewhere."""
        if self.interval is None or not self.undecided:
            return ""
        if not all(map(math.isfinite, self.interval)):
            return " (these inputs tell no interval)"
        low, high = self.interval
        return f" ({low:.4g} to {high:.4g})"

    def _written(self, form: str, digits: int) -> str:
        """The figure with so many digits, or with more where it would seem to be the limit itself."""
        while True:
            text = form.format(self.measured, digits)
            same = float(text.split()[0]) == self.gate.limit != self.measured
            if not same or digits >= 17:
                return text
            digits += 1

    def __str__(self) -> str:
        return f"{self.gate} ({self.figure}{self.range.replace(' (', ', ').removesuffix(')')})"


def parse(given: Iterable[str | Gate], figures: Mapping[str, Figure] | None = None) -> tuple[Gate, ...]:
    """Gates from texts such as ``macs<=0.8``; besides the keys of budgets there are those of figures.

    Raises:
        InputError: a text is no gate, its key is unknown or given twice, it has the wrong direction, or its
            limit means nothing.
    """
    found: dict[str, Gate] = {}
    for item in (given,) if isinstance(given, str) else given:
        named = figures or {}
        gate = _checked(item, item.key, item.limit, named) if isinstance(item, Gate) else _parse(item, named)
        if gate.key in found:
            raise InputError(
                f"{Named('require', gate)}: {found[gate.key]} is required already; give each key once"
            )
        found[gate.key] = gate
    return tuple(found.values())


def of_budget(budget: Budget) -> tuple[Gate, ...]:
    """What a budget asks for, as gates."""
    asked = ((key, getattr(budget, key)) for key in KEYS)
    named = tuple(Gate(figure.key, limit, figure) for figure, limit in budget.figures)
    return (*(Gate(key, limit) for key, limit in asked if limit is not None), *named)


def judge(
    gates: Iterable[Gate], figures: Mapping[str, float | None], known: Known | None = None
) -> tuple[Judged, ...]:
    """Each gate with the figure of its key.

    Args:
        gates: what is asked for.
        figures: by key.
        known: their intervals; None where they are judged by themselves.

    Returns:
        Their verdicts, in order.
    """
    if known is None:
        return tuple(gate.judge(figures.get(gate.key)) for gate in gates)
    found = known.intervals
    return tuple(gate.judge(figures.get(gate.key), found.get(gate.key), known.inputs) for gate in gates)


def undecided(judged: Iterable[Judged], confidence: float, given: int = 1) -> str:
    """Tell that figures are within their limits, and too few inputs were given to know.

    Args:
        judged: the gates.
        confidence: of the intervals.
        given: inputs that are given for each that is measured on.

    Returns:
        That, with the number that would do; "" where no figure is.
    """
    found = [item for item in judged if item.undecided]
    if not found:
        return ""
    needed = [item.needed for item in found if item.needed is not None]
    advice = "give more of them, or ask for less"
    if len(needed) == len(found):
        held = f", {max(needed)} of them held out" if given > 1 else ""
        advice = f"about {given * max(needed)} would do{held}"
    return (
        f"the inputs are too few to know with a confidence of {confidence:g}: {advice}; a confidence of none "
        "goes by the figure alone"
    )


def missed(judged: Iterable[Judged]) -> str:
    """The keys of a budget that are not kept, with their figures; "" when all are."""
    return "; ".join(item.shortfall for item in judged if not item)


def failed(judged: Iterable[Judged]) -> str:
    """The gates that fail, with their figures; "" when all pass."""
    return "; ".join(str(item) for item in judged if not item)


def sign(key: str, figure: Figure | None = None) -> str:
    """The direction of a key's limit: ``<=`` for a cost, and a figure that falls, ``>=`` for a quality."""
    return "<=" if key in COSTS or (figure is not None and figure.falling) else ">="


def other_sign(key: str, limit: str, figure: Figure | None = None) -> str:
    """What is said of a limit that is given with another sign than its key's.

    Args:
        key: a key of a budget.
        limit: as given.
        figure: the figure of a measure that the key names; None for keys that there are without one.

    Returns:
        That, with what was perhaps meant.
    """
    wanted, kind = sign(key, figure), "cost" if key in COSTS else "quality"
    most = "at most" if wanted == "<=" else "at least"
    return f"a {kind} has to be {most} its limit; did you mean {key}{wanted}{limit}?"


def unit_of(key: str, figure: Figure | None = None) -> str:
    """The unit of a key's limit: ``dB``, or "" for a part."""
    return "dB" if key == "sqnr" else "" if figure is None else figure.unit


def _parse(text: str, figures: Mapping[str, Figure]) -> Gate:
    match = _FORM.fullmatch(text)
    if text in (*KEYS, *figures):  # without quotes, > or < and what follows it go to the shell
        quoted = f"'{text}{sign(text, figures.get(text))}LIMIT'"
        raise InputError(f"{Named('require', text)}: has no limit; write it in quotes: {quoted}")
    if match is None:
        raise InputError(
            f"{Named('require', text or repr(text))}: "
            "expected a key, <= or >=, and a number, such as macs<=0.8"
        )
    key, given_sign = match["key"], match["sign"]
    figure = figures.get(key)
    if key not in KEYS and figure is None:
        raise InputError(f"{Named('require', text)}: no such key; {hint(key, (*KEYS, *figures))}")
    if given_sign != sign(key, figure):
        raise InputError(f"{Named('require', text)}: {other_sign(key, match['limit'], figure)}")
    try:
        limit = float(match["limit"])
    except ValueError:
        part = percentage(match["limit"])
        meant = "" if part is None else f"; did you mean {key}{given_sign}{part:g}?"
        raise InputError(f"{Named('require', text)}: {match['limit']!r} is no number{meant}") from None
    return _checked(text, key, limit, figures)


def _checked(given: object, key: str, limit: float, figures: Mapping[str, Figure]) -> Gate:
    figure = figures.get(key)
    if key not in KEYS and figure is None:
        raise InputError(f"{Named('require', given)}: no such key; {hint(key, (*KEYS, *figures))}")
    expected = refused(key, limit, MOST, sign(key, figure), figure)
    if expected:
        raise InputError(f"{Named('require', given)}: {expected}")
    return Gate(key, limit, figure)


def refused(key: str, limit: object, most: float, between: str, figure: Figure | None = None) -> str:
    """What is expected of a limit that can't be; "" of one that can.

    Args:
        key: a key of a budget.
        limit: its limit, as given.
        most: the largest part of the input's cost.
        between: what stands between the two.
        figure: the figure of a measure that the key names; None for keys that there are without one.

    Returns:
        "", or what is expected, with what was perhaps meant.
    """
    if not isinstance(limit, Real) or isinstance(limit, bool):
        return "expected a number"
    limit = float(limit)
    if key == "metric":
        fits, wanted = math.isfinite(limit), "a number"
    elif unit_of(key, figure):
        fits, wanted = 0 < limit < math.inf, "a positive number of dB"
    elif figure is not None and figure.falling:
        fits, wanted = 0 <= limit < 1, "a fraction in [0, 1)"
    elif key == "agreement" or figure is not None or most == 1:
        fits, wanted = 0 < limit <= 1, "a fraction in (0, 1]"
    else:
        fits, wanted = 0 < limit <= most, f"a part of the input's, at most {most:g}"
    if fits:
        return ""
    if key == "metric" or unit_of(key, figure) or not 1 < limit <= 100:
        return f"expected {wanted}"
    part = limit / 100  # a percentage, or of a cost a factor by which to fall: whichever takes less away
    meant = part if key == "agreement" or figure is not None else max(part, 1 / limit)
    return f"expected {wanted}; did you mean {key}{between}{meant:.3g}?"
