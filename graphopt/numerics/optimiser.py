"""Steps down a gradient, in plain NumPy: Adam in the eigenbasis of the gradient's second moments.

SOAP (Vyas et al. 2024, "SOAP: Improving and stabilizing Shampoo using Adam"): a weight is seen as a matrix
``[rows, columns]``; the eigenvectors of the means of G Gᵀ and GᵀG turn gradients so that their coordinates
are nearly uncorrelated, and there Adam (Kingma and Ba 2015) has a step size for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.types import Array

MOMENTUM = 0.9
"""Of the mean gradient: derived, what Adam was published with."""
MEMORY = 0.99
"""Of the second moments: derived, a tenth of the 1,000 steps that Adam was published with remember, since a
run has no more than that."""
TURNED_EVERY = 20
"""Steps after which the eigenvectors are found anew: derived, a fifth of what `MEMORY` remembers."""
WIDEST = 512
"""Rows or columns of a matrix that is turned on that side. Derived: eigenvectors of that size take a tenth of
a second."""
LEAST = 1e-6
"""Added to the roots of second moments that were turned, as a part of the root of their sum: derived, eight
times what float32 rounds by. A gradient has no part along some directions, and what turning leaves there by
rounding is no way to go."""
WARMING = 20
"""Steps in which the rate rises: derived, until the eigenvectors are found again from as many gradients."""

Matrix = npt.NDArray[Any]


@dataclass
class _State:
    """What is remembered of one weight's gradients."""

    mean: Matrix
    squares: Matrix
    left: Matrix | None
    right: Matrix | None
    turns: tuple[Matrix | None, Matrix | None] = (None, None)


@dataclass
class Soap:
    """Steps of several weights at once.

    Attributes:
        steps: how many were taken.
    """

    steps: int = 0
    _states: dict[str, _State] = field(default_factory=dict)

    @staticmethod
    def of(steps: int, held: Mapping[str, Array]) -> Soap:
        """One that goes on from what another has held.

        Args:
            steps: that were taken.
            held: what `held` gave.
        """
        parts: dict[str, dict[str, Array]] = {}
        for key, array in held.items():
            kind, _, name = key.partition("/")
            parts.setdefault(name, {})[kind] = array
        states = {
            name: _State(
                part["mean"],
                part["squares"],
                part.get("left"),
                part.get("right"),
                (part.get("turn_left"), part.get("turn_right")),
            )
            for name, part in parts.items()
        }
        return Soap(steps, states)

    def held(self) -> dict[str, Array]:
        """What is remembered, by kind and weight."""
        found: dict[str, Array | None] = {}
        for name, state in self._states.items():
            found |= {f"mean/{name}": state.mean, f"squares/{name}": state.squares}
            found |= {f"left/{name}": state.left, f"right/{name}": state.right}
            found |= {f"turn_left/{name}": state.turns[0], f"turn_right/{name}": state.turns[1]}
        return {key: array for key, array in found.items() if array is not None}

    def step(self, weights: dict[str, Array], gradients: Mapping[str, Array], rate: float) -> None:
        """Take a step.

        Args:
            weights: by name, in float32; each is replaced by a new array.
            gradients: by name, of the same shapes.
            rate: length of the step in each coordinate, about.
        """
        self.steps += 1
        for name, gradient in gradients.items():
            weights[name] = weights[name] - np.float32(rate) * self._direction(name, gradient)

    def _direction(self, name: str, gradient: Array) -> Matrix:
        matrix = _matrix(gradient)
        state = self._states.get(name)
        if state is None:
            sides = (np.zeros((n, n), np.float32) if 1 < n <= WIDEST else None for n in matrix.shape)
            flat = gradient.ndim < 2
            left, right = (None, None) if flat else sides
            state = _State(np.zeros_like(matrix), np.zeros_like(matrix), left, right)
            self._states[name] = state
        state.mean = MOMENTUM * state.mean + (1 - MOMENTUM) * matrix
        if state.left is not None:
            state.left = MEMORY * state.left + (1 - MEMORY) * (matrix @ matrix.T)
        if state.right is not None:
            state.right = MEMORY * state.right + (1 - MEMORY) * (matrix.T @ matrix)
        if self.steps == 1 or self.steps % TURNED_EVERY == 0:
            state.turns = _eigenvectors(state.left), _eigenvectors(state.right)
        turned = _turned(matrix, *state.turns)
        state.squares = MEMORY * state.squares + (1 - MEMORY) * turned**2
        mean = _turned(state.mean, *state.turns) / (1 - MOMENTUM**self.steps)
        roots = np.sqrt(state.squares / (1 - MEMORY**self.steps))
        turns = state.left is not None or state.right is not None
        least = LEAST * float(np.linalg.norm(roots)) if turns else 0.0
        way = mean / np.maximum(roots + np.float32(least), np.finfo(np.float32).tiny)
        back = (None if turn is None else turn.T for turn in state.turns)
        return _turned(way, *back).reshape(gradient.shape)


def _matrix(array: Array) -> Matrix:
    return array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)


def _eigenvectors(moments: Matrix | None) -> Matrix | None:
    if moments is None:
        return None
    return np.linalg.eigh(moments.astype(np.float64))[1].astype(np.float32)


def _turned(matrix: Matrix, left: Matrix | None, right: Matrix | None) -> Matrix:
    """Lᵀ M R; a side without eigenvectors stays as it is."""
    found = matrix if left is None else left.T @ matrix
    return found if right is None else found @ right


def rate_at(step: int, steps: int, highest: float) -> float:
    """The rate of a step: it rises linearly, and falls to 0 along a cosine (Loshchilov and Hutter 2017).

    Args:
        step: number of the step, from 0.
        steps: of the whole run.
        highest: the rate that it rises to.

    Returns:
        The rate.
    """
    return highest * min(1.0, (step + 1) / WARMING) * 0.5 * (1 + math.cos(math.pi * step / steps))
