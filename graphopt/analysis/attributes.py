"""What a node says of itself: in attributes, or in the inputs that newer operator sets have instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Content: TypeAlias = Callable[["ir.Value | None"], "npt.NDArray[Any] | None"]
"""What a value holds where that is known, such as `Analysis.constant`."""

TO_THE_END = (1 << 63) - 1
"""The end of a written range that reaches to the end of its axis, whatever its size: derived, the largest
int64."""
FAR = (1 << 31) - 1
"""From here on the end of a range that is read means the end of its axis: derived, the largest int32, which
exporters write for it."""
EPSILON = float(np.float32(1e-5))
"""What normalisations add to a variance where nothing is said: derived, from the definition of the operators,
whose attributes are in float32, also where they work in float64."""
_NONE = (FAR, TO_THE_END)
"""Ends by which exporters say that there is none, which onnxruntime takes for that backwards too."""


def ints(
    node: ir.Node, name: str, index: int, content: Content, default: Sequence[int] | None = None
) -> list[int] | None:
    """Whole numbers of an attribute, or of the input that newer operator sets have in its place.

    Args:
        node: the operator.
        name: of the attribute.
        index: of the input.
        content: what is known of the input.
        default: what it means to leave both out.

    Returns:
        The numbers; None where the content is not known.
    """
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None if default is None else list(default)
    array = content(value)
    return None if array is None else [int(number) for number in np.asarray(array).reshape(-1)]


def slice_ranges(node: ir.Node, content: Content) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step of a Slice by axis, as they are written; None where one is not known."""
    starts, ends = (ints(node, name, index, content) for index, name in enumerate(("starts", "ends"), 1))
    if starts is None or ends is None:
        return None
    axes = ints(node, "axes", 3, content, range(len(starts)))
    steps = ints(node, "steps", 4, content, [1] * len(starts))
    if axes is None or steps is None:
        return None
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def taken(entry: tuple[int, int, int], size: int) -> range:
    """The positions that a Slice takes of an axis.

    Forwards they are Python's. Backwards onnxruntime lets a start in front of the axis be its first position,
    and takes an end of INT_MAX for none.

    Args:
        entry: start, end and step.
        size: of the axis.
    """
    start, end, step = entry
    if step > 0:
        return range(*slice(start, end, step).indices(size))
    start = min(max(start + size if start < 0 else start, 0), size - 1)
    end = -1 if end in _NONE else min(max(end + size if end < 0 else end, -1), size)
    return range(start, end, step)


def batch_statistics(node: ir.Node, opset: int) -> str:
    """Why a BatchNormalization normalises by what it reads, as in training; "" where by constants.

    Args:
        node: the BatchNormalization.
        opset: the version of the default domain that the model imports.

    Returns:
        What says so: an attribute from opset 14 on and up to 6, the number of outputs in between.
    """
    if opset >= 14:
        trains = "training_mode=1" if node.attributes.get_int("training_mode", 0) else ""
    elif opset >= 7:
        trains = f"{len(node.outputs)} outputs" if len(node.outputs) > 1 else ""
    else:
        trains = "" if node.attributes.get_int("is_test", 0) else "is_test=0"
    return trains and f"{trains}, so it normalises by the batch's own statistics"
