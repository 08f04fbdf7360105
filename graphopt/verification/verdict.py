"""Verdicts: how the comparison of two models, or of one output, ended."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.errors import GraphOptError
from graphopt.verification.difference import Difference, Output


class Rule(enum.Enum):
    """By what a comparison is judged."""

    RELATIVE = "relative difference"
    """The largest difference as a part of the largest value, under a bound of its type."""
    EQUAL = "equal values"
    """Whole numbers, truth values and texts are the same."""
    OWN = "own difference of onnxruntime"
    """The same figure under a multiple of what onnxruntime's own optimisation changes in the original."""
    BEFORE = "values before it"
    """The values that the same operators make it of are compared, since it tells too little by itself."""
    QUALITY = "measured quality"
    """A figure of quality under the limit that the user named."""
    PORTS = "same inputs and outputs"
    """Names, types and shapes of what a caller meets."""
    RUNS = "runs"
    """onnxruntime has to run it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One comparison of two outputs; truthy when it passed.

    Attributes:
        scope: what was compared: ``model``, ``model (optimised session)``, or ``region NODE``.
        output: the output's name.
        passed: whether the difference is within what is allowed.
        max_abs: largest absolute difference over all feeds.
        max_rel: largest max|a − b| / max|a| of a feed.
        sqnr: 10·log10(Σ a² / Σ (a − b)²) in dB; infinite when equal.
        allowed: the largest `max_rel` that passes (or another bound that `note` names).
        feeds: number of feeds compared.
        note: what the figures leave open; "" otherwise.
        rule: by what it was judged.
        value: the value that was compared in the output's place, or besides it; "" for the output itself.
        informative: whether the inputs change the value by much more than is allowed; where they don't, a
            candidate that computes something else may pass.
    """

    scope: str
    output: str
    passed: bool
    max_abs: float
    max_rel: float
    sqnr: float
    allowed: float
    feeds: int
    note: str = ""
    rule: Rule = Rule.RELATIVE
    value: str = ""
    informative: bool = True

    def __bool__(self) -> bool:
        return self.passed

    @property
    def compared(self) -> str:
        """What was compared: the output, or a value before it."""
        return f"{self.output}, before it {self.value}" if self.value else self.output

    @property
    def judged(self) -> str:
        """The rule with its bound."""
        if self.rule in (Rule.RELATIVE, Rule.OWN):
            return f"{self.rule.value}, at most {self.allowed:.1e}"
        return str(self.rule.value)

    @property
    def why(self) -> str:
        """What it passed or failed by: the note, or the difference with what is allowed."""
        return self.note or f"relative difference {self.max_rel:.1e}, allowed {self.allowed:.1e}"

    def __str__(self) -> str:
        mark = "equal" if math.isinf(self.sqnr) and self.sqnr > 0 else f"relative {self.max_rel:.1e}"
        return f"{self.scope}: {self.compared} {'passed' if self.passed else 'FAILED'}, {mark}"


def warnings(checks: Iterable[Verdict]) -> tuple[str, ...]:
    """What has to be known before anything is trusted: what comparisons could not see, each once."""
    return tuple(dict.fromkeys(check.note for check in checks if check.passed and not check.informative))


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing two models; truthy when every check passed.

    Attributes:
        checks: the comparisons.
        notes: what was not compared, and why.
        unrun: why the models were not run as a whole; "" where they were.
        undecided: whether nothing but figures of too few inputs fails, which are within their limits.
    """

    checks: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    unrun: str = ""
    undecided: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the comparisons could not see, and where there are none, why."""
        seen = warnings(self.checks) or (() if self.checks else ("nothing was compared", *self.notes))
        return (*not_run(self.unrun), *seen)

    def __bool__(self) -> bool:
        return self.passed


def not_run(unrun: str) -> tuple[str, ...]:
    """What has to be known before all else where the whole model was not run; nothing where it was.

    Args:
        unrun: why it was not; "" where it was.
    """
    return (f"the whole model was not run, its regions were: {unrun}",) if unrun else ()


def bound(output: Output, bounds: Mapping[str, float]) -> float:
    """The relative difference allowed for an output like this; 0 for integers."""
    if isinstance(output, list):
        return max((bound(element, bounds) for element in output), default=0.0)
    return bounds.get(output.dtype.name, 0.0)


def verdict(scope: str, output: str, gap: Difference, limit: float) -> Verdict:
    """What a difference means under a bound.

    Args:
        scope: what was compared.
        output: the output's name.
        gap: how far apart the two are.
        limit: the largest relative difference that passes.

    Returns:
        The verdict, with the measured figures.
    """
    rule = Rule.RELATIVE if limit else Rule.EQUAL
    return measured(scope, output, gap, limit, rule, passed=gap.max_rel <= limit)


def measured(
    scope: str,
    output: str,
    gap: Difference,
    allowed: float,
    rule: Rule,
    *,
    passed: bool,
    note: str = "",
    value: str = "",
    informative: bool = True,
) -> Verdict:
    """A verdict with the figures of a difference.

    Args:
        scope: what was compared.
        output: the output's name.
        gap: how far apart the two are.
        allowed: the largest relative difference that passes.
        rule: by what it was judged.
        passed: whether it passed.
        note: what the figures leave open, where the difference says nothing itself.
        value: the value that was compared, where it is not the output itself.
        informative: whether the inputs change it by much more than is allowed.

    Returns:
        The verdict.
    """
    figures = (gap.max_abs, gap.max_rel, gap.sqnr, allowed, gap.feeds)
    return Verdict(scope, output, passed, *figures, gap.note or note, rule, value, informative)


def unrunnable(scope: str, output: str, error: GraphOptError) -> Verdict:
    """The verdict on something that can't be run.

    Args:
        scope: what was to be compared.
        output: the output's name.
        error: what onnxruntime says, or why it was not asked.

    Returns:
        A verdict that has not passed.
    """
    return Verdict(scope, output, False, math.inf, math.inf, -math.inf, 0.0, 0, str(error), Rule.RUNS)
