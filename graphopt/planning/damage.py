"""How an error in one layer harms the network's output, in plain NumPy: probed, then interpolated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SLOPE, MOST_SLOPE = 0.7, 2.0
"""Of log damage over log error above what was probed. Measured by benchmarks.thresholds: 0 or 1 for the
least, 1 or 4 for the most, gives the same."""
SMALL_SLOPE = 1.0
"""Below what was probed: of small errors the damage is a quadratic form, and both are squares. Derived;
measured by benchmarks.thresholds besides: with 0.7, 1 and 1.5 a network kept 34.2, 33.9 and 34.5 dB, four
seeds alone give 33.5 to 34.5."""
LARGEST_ERROR = 1.0 - 1e-9
"""Relative errors at or above 1 count as this, so that their damage stays finite: derived, −log(1e-9) =
21."""
LEAST_DAMAGE = 1e-12
"""What a probe that changed nothing counts as: its logarithm has to be finite. Derived: (8 eps of float32)²,
less than what rounding changes."""

MOST_DAMAGE = 1 / LEAST_DAMAGE
"""What a probe counts as after which an output is not finite, or changes where it never did: derived, as far
above what it varies by."""


def unprobed(error: float) -> float:
    """What a relative output error counts where nothing was probed: −log(1 − error); layers add up."""
    return -math.log(1.0 - min(max(error, 0.0), LARGEST_ERROR))


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The damage of one layer's error, from probes at a few errors.

    Attributes:
        points: (relative error of the layer, mean squared change of the network's output over its variance),
            ascending in both.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, probes: Sequence[tuple[float, float]]) -> Sensitivity:
        """The sensitivity from probes in any order; despite noise, damage never falls with the error."""
        points: list[tuple[float, float]] = []
        highest = LEAST_DAMAGE
        for error, harm in sorted(probes):
            highest = max(highest, harm if harm < MOST_DAMAGE else MOST_DAMAGE)  # also what is no number
            if error > 0 and (not points or math.log(error) > math.log(points[-1][0])):
                points.append((error, highest))
        return cls(tuple(points))

    def damage(self, error: float) -> float:
        """The damage at an error: log damage over log error, linear between probes."""
        if error <= 0 or not self.points:
            return 0.0
        at = math.log(error)
        logs = [(math.log(e), math.log(d)) for e, d in self.points]
        if len(logs) == 1:
            return math.exp(logs[0][1] + at - logs[0][0])
        if at <= logs[0][0]:
            (x, y), slope = logs[0], SMALL_SLOPE
        elif at >= logs[-1][0]:
            (x, y), slope = logs[-1], _slope(logs[-2], logs[-1])
        else:
            right = next(i for i, (x, _) in enumerate(logs) if x >= at)
            (x, y), (x1, y1) = logs[right - 1], logs[right]
            return math.exp(y + (y1 - y) / (x1 - x) * (at - x))
        return math.exp(y + min(max(slope, LEAST_SLOPE), MOST_SLOPE) * (at - x))


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
