"""Intervals: where a figure of some inputs may lie for all inputs of their kind, on plain numbers.

All are two-sided: of a confidence of 0.95, each end is passed by chance one time in forty. How far a figure
is off is told by the jackknife (Quenouille 1949, Tukey 1958): it is taken again without each of some groups
of the inputs, from the sums of the others, so that nothing is run again. Parts have Wilson's interval
(1927), which holds for none and for all too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean

from graphopt.types import Interval

GROUPS = 20
"""Groups of inputs that are left out in turn, one input each where there are fewer. Derived: with more the
interval would be narrower by a fifteenth at most (Student's quantiles of 19 groups and of any number, 2.09
and 1.96 at 0.95), and each takes the figure once more."""
HALVINGS = 60
"""Halvings of an angle, by which a quantile is found: derived, the digits of a double and some."""


def wilson(part: float, count: float, confidence: float) -> Interval:
    """The interval of a part of so many that are right (Wilson 1927).

    Args:
        part: the figure.
        count: of so many.
        confidence: that it lies inside.

    Returns:
        Both ends, from 0 to 1.
    """
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (part + squared / (2 * count)) / (1 + squared / count)
    spread = part * (1 - part) / count + squared / (4 * count**2)
    half = math.sqrt(squared * spread) / (1 + squared / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def of_median(values: Sequence[float], confidence: float) -> Interval:
    """The interval of a median, whatever the values are distributed like (Thompson 1936).

    Each lies below the median with a chance of a half, so that a binomial counts how many do.

    Args:
        values: at least one; of few all of them are needed, and the confidence may be less.
        confidence: that the median lies inside.

    Returns:
        Two of the values.
    """
    ordered, count, outside, left_out = sorted(values), len(values), 0.0, 0
    while (more := outside + math.comb(count, left_out) / 2**count) <= (1 - confidence) / 2:
        outside, left_out = more, left_out + 1
    first = max(left_out - 1, 0)
    return ordered[first], ordered[-1 - first]


def of_part(
    part: float, inputs: int, left_out: Sequence[float], confidence: float, least: float | None = 0.0
) -> Interval:
    """The interval of a figure up to 1, such as a part, a mean over inputs or over what they hold.

    Wilson's, for as many as would be off as far as the jackknife tells (Korn and Graubard 1998), and for as
    many as there are inputs at least: no mean of numbers from 0 to 1 is off further, and those that begin
    elsewhere, as cosines at -1, are scaled to these. What is no such mean, as a variance that is explained,
    has that of a number, up to 1.

    Args:
        part: the figure.
        inputs: on so many.
        left_out: the figure without each group of inputs.
        confidence: that it lies inside.
        least: the smallest of the numbers whose mean it is; None where it is none.

    Returns:
        Both ends.
    """
    if least is None or not least <= part <= 1:
        low, high = of_number(part, left_out, confidence)
        return low, min(high, max(part, 1.0))
    width = 1 - least
    scaled, count, off = (part - least) / width, float(inputs), _off(left_out, confidence) / width
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    if 0 < off < math.inf:
        count = max(count, scaled * (1 - scaled) * (normal / off) ** 2)
    low, high = wilson(scaled, count, confidence)
    return least + width * low, least + width * high


def of_number(value: float, left_out: Sequence[float], confidence: float) -> Interval:
    """The interval of any other figure, by Student's distribution.

    Args:
        value: the figure.
        left_out: the figure without each group of inputs.
        confidence: that it lies inside.

    Returns:
        Both ends.
    """
    off = _off(left_out, confidence)
    return (value - off, value + off) if math.isfinite(value) else (value, value)


def of_error(error: float, left_out: Sequence[float], confidence: float) -> Interval:
    """The interval in dB of a relative error, as far off as a part of it as the error is.

    Args:
        error: a ratio of noise to signal.
        left_out: the error without each group of inputs.
        confidence: that it lies inside.

    Returns:
        Both ends.
    """
    if error == 0.0 or not math.isfinite(error):
        same = math.inf if error == 0.0 else -math.inf
        return same, same
    decibels, off = -10 * math.log10(error), _off(left_out, confidence)
    half = 10 / math.log(10) * off / error
    return decibels - half, decibels + half


def needed(figure: float, end: float, limit: float, inputs: int, *, least: float | None) -> int | None:
    """Inputs of which an interval that is as wide for its number would end at the limit.

    Args:
        figure: the figure, within its limit.
        end: of its interval, beyond the limit.
        limit: what is asked for.
        inputs: on so many it was measured.
        least: the smallest of the numbers up to 1 whose mean it is, with Wilson's interval; None where it is
            none.

    Returns:
        Their number; None where no number would do, or nothing tells.
    """
    if figure == limit or not all(map(math.isfinite, (figure, end, limit))):
        return None
    ratio = ((figure - end) / (figure - limit)) ** 2
    if least is not None:
        spread = (end - least) * (1 - end)
        ratio *= (limit - least) * (1 - limit) / spread if least < end < 1 else math.inf
    return math.ceil(inputs * ratio) if math.isfinite(ratio) else None


def fewest(limit: float, confidence: float) -> int | None:
    """Inputs of which, where all are right, the limit is known to be kept; None where no number will do."""
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    return math.ceil(squared * limit / (1 - limit)) if limit < 1 else None


def _off(left_out: Sequence[float], confidence: float) -> float:
    """By how much a figure may be off either way; infinite where nothing tells."""
    count = len(left_out)
    if count < 2 or not all(map(math.isfinite, left_out)):
        return math.inf
    mean = fmean(left_out)
    variance = (count - 1) / count * math.fsum((each - mean) ** 2 for each in left_out)
    return student(confidence, count - 1) * math.sqrt(variance)


@lru_cache(maxsize=256)
def student(confidence: float, freedom: int) -> float:
    """So many standard errors hold so much of Student's distribution (Abramowitz and Stegun 1964, 26.7.3-4).

    Args:
        confidence: the mass between both ends.
        freedom: degrees of freedom.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        angle = (low + high) / 2
        low, high = (angle, high) if _mass(angle, freedom) < confidence else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _mass(angle: float, freedom: int) -> float:
    """The mass of Student's distribution within tan(angle)·√freedom."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
