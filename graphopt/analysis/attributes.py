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
