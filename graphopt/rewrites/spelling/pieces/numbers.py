"""Numbers that spellings name, as models hold them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis

EXACT = 4.0
"""Times a type's rounding that a constant may differ from the number that a spelling names: derived, it may
be a quotient of two that were rounded, one of them a root."""
SINGLE = (np.float16, np.float32)
"""The types for which onnxruntime has all activations."""


def is_near(analysis: Analysis, value: ir.Value | None, number: float) -> bool:
    """Whether a value is one number, and this one.

    Args:
        analysis: the snapshot.
        value: the value.
        number: the number.

    Returns:
        Whether it is, but for its type's rounding.
    """
    found, array = scalar(analysis, value), analysis.constant(value)
    return found is not None and array is not None and near(np.dtype(array.dtype.name), found, number)


def near(dtype: np.dtype[np.floating], found: float, number: float) -> bool:
    """Whether a number that was computed in a type is another.

    Args:
        dtype: the type.
        found: the number.
        number: what it should be.

    Returns:
        Whether it is, but for the type's rounding.
    """
    return bool(abs(found - number) <= EXACT * float(np.finfo(dtype).eps) * abs(number))


def scalar(analysis: Analysis, value: ir.Value | None) -> float | None:
    """The number that a value is; None where it is none, or has more of them."""
    array = analysis.constant(value)
    return float(array.item()) if array is not None and array.size == 1 and array.dtype.kind == "f" else None


def float_type(analysis: Analysis, nodes: Iterable[ir.Node]) -> np.dtype[np.floating] | None:
    """The type of the numbers that operators read; None where there is none. An exponent may have another."""
    typed = (node for node in nodes if node.op_type != "Pow")
    numbers = (analysis.constant(value) for node in typed for value in node.inputs)
    kinds = (np.dtype(array.dtype.name) for array in numbers if array is not None and array.dtype.kind == "f")
    return next(kinds, None)


def type_of(analysis: Analysis, value: ir.Value) -> np.dtype[np.floating] | None:
    """The type of a value's numbers, declared or inferred; None where nothing tells."""
    kind = analysis.sizes.dtype(value)
    return None if kind is None else np.dtype(kind.numpy())
