"""Intervals of figures: those of tables and of the field's definitions, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphopt.planning import gates, intervals
from graphopt.planning.gates import Gate, Known


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [(1, 0.95, 12.7062), (2, 0.95, 4.3027), (3, 0.99, 5.8409), (10, 0.9, 1.8125), (19, 0.95, 2.0930)],
)
def test_quantiles_of_students_distribution(freedom: int, confidence: float, expected: float) -> None:
    assert intervals.student(confidence, freedom) == pytest.approx(expected, abs=1e-4)


def test_the_interval_of_a_part() -> None:
    """0.8 of 10 is known to lie between 0.490 and 0.943 (Wilson 1927); all of 100 at 0.963 or more."""
    assert intervals.wilson(0.8, 10, 0.95) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert intervals.of_part(1.0, 100, [], 0.95) == pytest.approx((0.963, 1.0), abs=1e-3)
    assert intervals.fewest(0.96, 0.95) == 93 and intervals.fewest(1.0, 0.95) is None
    assert intervals.wilson(1.0, 93, 0.95)[0] >= 0.96 > intervals.wilson(1.0, 92, 0.95)[0]


def without_each(values: np.ndarray) -> list[float]:
    return [float(np.delete(values, number).mean()) for number in range(len(values))]


def test_a_part_of_much_in_each_input_is_better_known_than_one_of_inputs() -> None:
    parts = np.random.default_rng(0).normal(0.97, 0.01, 30)
    mean = float(parts.mean())
    low, high = intervals.of_part(mean, 30, without_each(parts), 0.95)
    half = 2.045 * parts.std(ddof=1) / math.sqrt(30)  # Student's, of 29
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=1e-3)
    assert intervals.of_part(mean, 30, [], 0.95)[0] < low - 0.05


def test_a_variance_that_is_explained_is_no_part() -> None:
    """An input that is off by far weighs more than one of so many: the interval of a part is too narrow."""
    left_out = [0.5 + each for each in (-0.5, 0.1, -0.1, 0.3, 0.2, -0.4, 0.5, 0.4, -0.3, -0.2)]
    student = intervals.of_number(0.5, left_out, 0.95)
    assert intervals.of_part(0.5, 10, left_out, 0.95, None) == (student[0], 1.0) and student[0] < -1
    assert intervals.of_part(0.5, 10, left_out, 0.95) == intervals.wilson(0.5, 10, 0.95)


def test_intervals_of_cosines_hold_as_often_as_they_say() -> None:
    """One input in ten points the other way; the mean of numbers from -1 is off twice as far as of parts."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        values = np.where(rng.random(40) < 0.1, -1.0, 1.0)
        low, high = intervals.of_part(float(values.mean()), 40, without_each(values), 0.95, -1.0)
        held += low <= 0.8 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)
    assert intervals.of_part(-0.5, 40, [-0.5] * 20, 0.95, -1.0)[0] > -0.75  # no narrower than of so many


def test_intervals_of_means_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        values = rng.normal(3, 1, 12)
        low, high = intervals.of_number(float(values.mean()), without_each(values), 0.9)
        held += low <= 3 <= high
    assert held / 400 == pytest.approx(0.9, abs=0.04)


def test_the_interval_of_an_error_is_in_decibels_and_about_as_wide_either_way() -> None:
    errors = np.random.default_rng(2).gamma(4, 0.01, 20)
    mean = float(errors.mean())
    low, high = intervals.of_error(mean, without_each(errors), 0.95)
    off = 2.093 * errors.std(ddof=1) / math.sqrt(20) / mean
    assert (high - low) / 2 == pytest.approx(10 / math.log(10) * off, rel=1e-3)
    assert (high + low) / 2 == pytest.approx(-10 * math.log10(mean))
    assert intervals.of_error(0.0, [0.0] * 5, 0.95) == (math.inf, math.inf)
    assert intervals.of_error(math.inf, [], 0.95) == (-math.inf, -math.inf)
    assert intervals.of_error(0.1, [0.1], 0.95) == (-math.inf, math.inf)  # of a single input


@pytest.mark.parametrize(("part", "limit", "inputs"), [(0.98, 0.97, 100), (1.0, 0.98, 40), (0.9, 0.85, 25)])
def test_the_inputs_that_would_do_for_a_part(part: float, limit: float, inputs: int) -> None:
    low = intervals.wilson(part, inputs, 0.95)[0]
    needed = intervals.needed(part, low, limit, inputs, least=0.0)
    assert low < limit and needed is not None
    assert intervals.wilson(part, needed, 0.95)[0] >= limit > intervals.wilson(part, needed - 2, 0.95)[0]


def test_the_inputs_that_would_do_for_decibels() -> None:
    assert intervals.needed(22.0, 18.0, 20.0, 25, least=None) == 100
    assert intervals.needed(22.0, 18.0, 22.0, 25, least=None) is None


def test_the_worse_end_decides() -> None:
    known = Known({"agreement": (0.93, 0.99), "sqnr": (-math.inf, math.inf)}, 50, 0.95)
    figures = {"agreement": 0.97, "sqnr": 30.0, "macs": 0.5}
    asked = (Gate("agreement", 0.95), Gate("sqnr", 20.0), Gate("macs", 0.6), Gate("agreement", 0.9))
    few, unknown, cost, kept = gates.judge(asked, figures, known)
    assert (few.passed, unknown.passed, cost.passed, kept.passed) == (False, False, True, True)
    assert few.shortfall == "agreement 0.97 (0.93 to 0.99), at least 0.95 asked for"
    assert "(these inputs tell no interval)" in unknown.shortfall
    said = gates.undecided((few, cost), 0.95, given=4)
    assert f"about {4 * (few.needed or 0)} would do, {few.needed} of them held out" in said
    assert "give more of them, or ask for less" in gates.undecided((few, unknown), 0.95)
    assert not gates.undecided((kept, cost), 0.95)
    assert all(gates.judge(asked, figures))  # by the figures alone


def test_the_interval_of_a_median_lies_between_two_of_the_values() -> None:
    values = list(range(1, 21))
    assert intervals.of_median(values, 0.95) == (6, 15)  # of a binomial of 20: 5 or less in 2.07 %
    assert intervals.of_median(values, 0.99) == (4, 17)
    assert intervals.of_median([3, 1, 2], 0.95) == (1, 3)
    assert intervals.of_median([7], 0.95) == (7, 7)


def test_intervals_of_medians_hold_as_often_as_they_say() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        low, high = intervals.of_median(rng.lognormal(size=20).tolist(), 0.95)
        inside += low <= 1 <= high
    assert 935 <= inside <= 980
