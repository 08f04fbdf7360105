"""Verdicts: how the comparison of two models, or of one output, ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.errors import InputError
from graphopt.verification.difference import Difference, Output


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

    def __bool__(self) -> bool:
        return self.passed

    @property
    def why(self) -> str:
        """What it passed or failed by: the note, or the difference with what is allowed."""
        return self.note or f"relative difference {self.max_rel:.1e}, allowed {self.allowed:.1e}"

    def __str__(self) -> str:
        mark = "equal" if math.isinf(self.sqnr) and self.sqnr > 0 else f"relative {self.max_rel:.1e}"
        return f"{self.scope}: {self.output} {'passed' if self.passed else 'FAILED'}, {mark}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing two models; truthy when every check passed.

    Attributes:
        checks: the comparisons.
        notes: what was not compared, and why.
    """

    checks: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(self.checks)

    def __bool__(self) -> bool:
        return self.passed


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
    passed = gap.max_rel <= limit
    return Verdict(scope, output, passed, gap.max_abs, gap.max_rel, gap.sqnr, limit, gap.feeds, gap.note)


def unrunnable(scope: str, output: str, error: InputError) -> Verdict:
    """The verdict on something that onnxruntime refuses.

    Args:
        scope: what was to be compared.
        output: the output's name.
        error: what onnxruntime says.

    Returns:
        A verdict that has not passed.
    """
    return Verdict(scope, output, False, math.inf, math.inf, -math.inf, 0.0, 0, str(error))
