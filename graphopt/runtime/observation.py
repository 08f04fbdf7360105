"""Snapshots whose shapes inference could not all find: the model is run once, and the rest is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.analysis.constants import Memory
from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.runtime import session
from graphopt.types import Array, Shape


def snapshot(
    model: ir.Model,
    *,
    bindings: Mapping[str, Sequence[int]],
    known: dict[str, Shape],
    frozen: bool = False,
    statistics: Mapping[str, Statistics] | None = None,
    extremes: Mapping[str, tuple[Array, Array]] | None = None,
    seed: int = 0,
    guessed: bool = False,
    memory: Memory | None = None,
) -> Analysis:
    """An `Analysis` in which every linear operator has a size, if running the model once can tell it.

    Args:
        model: the model.
        bindings: sizes of its inputs.
        known: shapes seen before, by value name; what is seen now is added.
        frozen: as for `Analysis`.
        statistics: as for `Analysis`.
        extremes: as for `Analysis`.
        seed: of the input that the model is run on.
        guessed: as for `Analysis`.
        memory: as for `Analysis`.

    Returns:
        The snapshot; without more sizes where the model can't be run.

    Raises:
        InputError: the sizes contradict the model.
    """

    def look() -> Analysis:
        return Analysis(
            model,
            bindings=bindings,
            known=known,
            frozen=frozen,
            statistics=statistics,
            extremes=extremes,
            guessed=guessed,
            memory=memory,
        )

    analysis = look()
    missing = analysis.unsized()
    if not missing or analysis.sizes.unknown_dims:
        return analysis
    sizes = {
        value.name or "": analysis.shape(value) for value in model.graph.inputs if not value.is_initializer()
    }
    concrete = {
        name: tuple(n for n in shape if n is not None) for name, shape in sizes.items() if shape is not None
    }
    try:
        known.update(session.observe(model, session.random_feeds(model, concrete, seed), missing))
    except InputError:  # it can't be run: what inference found is all there is
        return analysis
    return look()
