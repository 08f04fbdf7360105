"""Limited-memory BFGS: minimises a smooth function of many variables, in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.types import Float64

MEMORY = 10
"""Steps that the curvature is taken from; measured by benchmarks.thresholds: 3, 10 and 30 lost 0.00416,
0.00410 and 0.00409."""
SHORTEN = 0.3
"""A step that gains too little is made shorter by this factor; measured by benchmarks.thresholds: 0.1, 0.3
and 0.7 lost 0.00413, 0.00410 and 0.00429."""
SHORTER = 8
"""As often at the most: derived, 0.3⁸ = 7e-5 of the step; what gains less ends the search by `STILL`.
Measured by benchmarks.thresholds: 2 to 20 give the same."""
GAIN = 1e-4
"""Part of the gain that the slope promises with which a step is taken (Nocedal and Wright 2006, "Numerical
optimization", section 3.1: c₁ = 1e-4)."""
STILL = 1e-4
"""Relative gain of a step below which no more are taken; measured by benchmarks.thresholds: 1e-3 lost 0.0044,
any value from 1e-4 to 1e-6 0.0041."""


def lbfgs(function: Callable[[Float64], tuple[float, Float64]], start: Float64, steps: int) -> Float64:
    """Minimise a function by limited-memory BFGS.

    (Nocedal 1980, "Updating quasi-Newton matrices with limited storage"; a backtracking line search.)

    Args:
        function: value and gradient at a point.
        start: where to begin.
        steps: steps to take at the most.

    Returns:
        The best point that was found; `start` where no step lowers the function.
    """
    point = start
    value, gradient = function(point)
    moves: list[Float64] = []
    turns: list[Float64] = []
    for _ in range(steps):
        way = -_scaled(gradient, moves, turns)
        if not moves:  # nothing is known of the curvature: a tenth of the size of what there is
            way *= 0.1 * float(np.linalg.norm(point)) / (float(np.linalg.norm(way)) or 1.0)
        slope, length = float(gradient @ way), 1.0
        for _ in range(SHORTER):
            after, turned = function(point + length * way)
            if after <= value + GAIN * length * slope:
                break
            length *= SHORTEN
        else:
            break
        move, turn = length * way, turned - gradient
        if float(move @ turn) > 0:
            moves, turns = [*moves, move][-MEMORY:], [*turns, turn][-MEMORY:]
        still = value - after <= STILL * abs(value)
        point, value, gradient = point + move, after, turned
        if still:
            break
    return point


def _scaled(gradient: Float64, moves: list[Float64], turns: list[Float64]) -> Float64:
    """The gradient times an estimate of the inverse of the curvature (the two-loop recursion)."""
    found, parts = gradient.copy(), []
    for move, turn in zip(moves[::-1], turns[::-1], strict=True):
        part = float(move @ found) / float(move @ turn)
        found -= part * turn
        parts.append(part)
    if moves:
        found *= float(moves[-1] @ turns[-1]) / float(turns[-1] @ turns[-1])
    for move, turn, part in zip(moves, turns, parts[::-1], strict=True):
        found += move * (part - float(turn @ found) / float(move @ turn))
    return found
