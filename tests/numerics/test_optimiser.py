"""Steps down a gradient: where they end, and that nothing but gradients decides them."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.numerics.optimiser import TURNED_EVERY, WARMING, WIDEST, Soap, rate_at
from graphopt.types import Array


def descended(shape: tuple[int, ...], steps: int, rate: float, seed: int = 0) -> float:
    """What is left of a distance in a valley that is 100 times as steep across as along, and turned."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (rows, columns))
    steep = np.geomspace(1, 100, rows * columns).reshape(rows, columns)
    weights: dict[str, Array] = {"w": rng.standard_normal(shape).astype(np.float32)}
    first, optimiser = float(np.square(weights["w"]).sum()), Soap()
    for step in range(steps):
        turned = left.T @ weights["w"].reshape(rows, columns) @ right
        gradient = (left @ (steep * turned) @ right.T).reshape(shape).astype(np.float32)
        optimiser.step(weights, {"w": gradient}, rate_at(step, steps, rate))
    return float(np.square(weights["w"]).sum()) / first


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2)])
def test_the_bottom_of_a_turned_valley_is_reached(shape: tuple[int, ...]) -> None:
    assert descended(shape, 300, 0.1) < 1e-4


def test_a_vector_is_moved_number_by_number() -> None:
    weights: dict[str, Array] = {"b": np.array([3.0, -1e-3, 0.0], np.float32)}
    Soap().step(weights, {"b": np.array([2.0, -5e-4, 0.0], np.float32)}, 0.01)
    np.testing.assert_allclose(weights["b"], [2.99, 0.009, 0.0], atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_no_step_goes_where_a_gradient_has_no_part(size: float) -> None:
    rng = np.random.default_rng(0)
    flat = (size * rng.standard_normal((12, 2)) @ rng.standard_normal((2, 24))).astype(np.float32)
    weights: dict[str, Array] = {"w": np.zeros((12, 24), np.float32)}
    Soap().step(weights, {"w": flat}, 0.01)
    outside = weights["w"] - flat @ np.linalg.pinv(flat, 1e-4) @ weights["w"]
    assert 0.01 < np.linalg.norm(weights["w"]) <= 0.01 * np.sqrt(12 * 24)
    assert np.linalg.norm(outside) < 0.5 * np.linalg.norm(weights["w"])


def test_a_wide_side_is_not_turned() -> None:
    weights: dict[str, Array] = {"w": np.zeros((2, WIDEST + 1), np.float32)}
    optimiser = Soap()
    for _ in range(TURNED_EVERY):
        optimiser.step(weights, {"w": np.ones((2, WIDEST + 1), np.float32)}, 0.01)
    state = optimiser._states["w"]
    assert state.right is None and state.left is not None
    assert float(weights["w"].mean()) < 0


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate_at(step, 200, 1.0) for step in range(201)]
    assert rates[:WARMING] == sorted(rates[:WARMING])
    assert rates[WARMING:] == sorted(rates[WARMING:], reverse=True)
    assert rates[-1] == pytest.approx(0.0) and max(rates) > 0.95
