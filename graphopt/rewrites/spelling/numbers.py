"""Numbers that spellings name, as models hold them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis

EXACT = 4.0
"""Times a type's rounding that a constant may differ from the number that a spelling names: derived, it may
be a quotient of two that were rounded, one of them a root."""


def is_near(analysis: Analysis, value: ir.Value | None, number: float) -> bool:
    """Whether a value is one number, and this one.

    Args:
        analysis: the snapshot.
        value: the value.
        number: the number.

    Returns:
        Whether it is, but for its type's rounding.
    """
    found = scalar(analysis, value)
    return found is not None and near(analysis, value, found, number)


def near(analysis: Analysis, value: ir.Value | None, found: float, number: float) -> bool:
    """Whether a number that was computed in a value's type is another.

    Args:
        analysis: the snapshot.
        value: of the type.
        found: the number.
        number: what it should be.

    Returns:
        Whether it is, but for the type's rounding.
    """
    array = analysis.constant(value)
    eps = np.finfo(np.float32 if array is None else array.dtype.name).eps
    return bool(abs(found - number) <= EXACT * float(eps) * abs(number))


def scalar(analysis: Analysis, value: ir.Value | None) -> float | None:
    """The number that a value is; None where it is none, or has more of them."""
    array = analysis.constant(value)
    return float(array.item()) if array is not None and array.size == 1 and array.dtype.kind == "f" else None


def float_type(analysis: Analysis, nodes: Iterable[ir.Node]) -> np.dtype[np.floating] | None:
    """The type of the numbers that operators read; None where there is none."""
    numbers = (analysis.constant(value) for node in nodes for value in node.inputs)
    kinds = (np.dtype(array.dtype.name) for array in numbers if array is not None and array.dtype.kind == "f")
    return next(kinds, None)
