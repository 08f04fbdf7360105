"""Sensitivity: the damage of a layer's error, from a few probes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.planning.damage import Sensitivity, unprobed

PROBES = [(0.01, 1e-4), (0.1, 3e-3), (0.3, 2e-2)]


def test_probes_are_met_and_what_is_between_is_between() -> None:
    found = Sensitivity.of(PROBES[::-1])
    for error, harm in PROBES:
        assert found.damage(error) == pytest.approx(harm)
    assert 1e-4 < found.damage(0.03) < 3e-3
    middle = math.exp((math.log(1e-4) + math.log(3e-3)) / 2)
    assert found.damage(math.sqrt(0.01 * 0.1)) == pytest.approx(middle)


def test_small_errors_harm_in_proportion() -> None:
    found = Sensitivity.of(PROBES)
    assert found.damage(0.001) == pytest.approx(1e-5)
    assert found.damage(0.0) == 0.0


def test_a_probe_that_fell_by_noise_is_lifted() -> None:
    found = Sensitivity.of([(0.01, 2e-4), (0.1, 1e-4), (0.3, 1e-2)])
    assert found.damage(0.05) == pytest.approx(2e-4) == found.damage(0.1)


@given(st.lists(st.tuples(st.floats(1e-4, 1.0), st.floats(0, 10)), min_size=1, max_size=4))
def test_damage_never_falls_with_the_error(probes: list[tuple[float, float]]) -> None:
    found = Sensitivity.of(probes)
    values = [found.damage(10 ** (-5 + 0.1 * i)) for i in range(55)]
    assert all(b >= a * (1 - 1e-9) for a, b in itertools.pairwise(values))
    assert all(math.isfinite(v) for v in values)


def test_without_probes() -> None:
    assert unprobed(0.0) == 0.0
    assert unprobed(0.5) == pytest.approx(math.log(2))
    assert math.isfinite(unprobed(1.5))


@pytest.mark.parametrize("harm", [math.inf, math.nan])
def test_an_output_that_is_not_finite_is_worse_than_any_and_damage_stays_a_number(harm: float) -> None:
    whole = Sensitivity.of([(0.01, harm), (0.05, harm), (0.25, harm)])
    assert all(math.isfinite(whole.damage(error)) for error in (1e-6, 0.01, 0.02, 0.1, 0.9))
    partly = Sensitivity.of([(0.01, 0.1), (0.05, 0.3), (0.25, harm)])
    assert partly.damage(0.05) == pytest.approx(0.3) and 1e6 < partly.damage(0.25) < math.inf
