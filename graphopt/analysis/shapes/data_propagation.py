"""What follows from shapes: the values of the small tensors that a model computes sizes with.

With a known shape, `Shape` is a constant, and so is what Gather, Slice, Concat and arithmetic make of it. A
tensor of which only some entries are known, such as the shape of an image of unknown height, is followed too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.evaluation import ELEMENTWISE_OPS, MOVING_OPS, SMALL_SIZE, AnyArray, evaluate, foldable
from graphopt.model.traversal import post_order
from graphopt.types import Shape


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A small tensor of which some entries may be unknown.

    Attributes:
        values: the entries; 1 where unknown.
        known: for each entry, whether it is known.
    """

    values: AnyArray
    known: npt.NDArray[np.bool_]

    @property
    def complete(self) -> bool:
        """Whether every entry is known."""
        return bool(self.known.all())

    def entries(self) -> Shape:
        """The entries of a vector of whole numbers, as sizes."""
        flat = zip(self.values.ravel().tolist(), self.known.ravel().tolist(), strict=True)
        return tuple(int(value) if known else None for value, known in flat)

    @classmethod
    def of(cls, array: AnyArray) -> Data:
        """A tensor with every entry known."""
        return cls(array, np.ones(array.shape, dtype=np.bool_))

    @classmethod
    def of_sizes(cls, sizes: Shape) -> Data:
        """A shape as the vector that the Shape operator gives."""
        values = np.array([1 if size is None else size for size in sizes], dtype=np.int64)
        return cls(values, np.array([size is not None for size in sizes], dtype=np.bool_))


class DataPropagation:
    """What is known of the small tensors of a model, given its shapes; found when asked for, and kept.

    Args:
        constants: the model's constants.
        shape_of: the shape of a value as far as it is known. Ask only for values whose ancestors' shapes
            are known already.
        opset: the version of the default domain that the model imports.
    """

    def __init__(
        self, constants: Constants, shape_of: Callable[[ir.Value], Shape | None], opset: int
    ) -> None:
        self._constants = constants
        self._shape_of = shape_of
        self._opset = opset
        self._found: dict[ir.Value, Data | None] = {}

    def get(self, value: ir.Value | None) -> Data | None:
        """The value's entries; None where none is known, or where it is not small."""
        if value is None:
            return None
        for each in post_order(value, self._parents, self._found):
            self._found[each] = self._find(each)
        return self._found.get(value)

    def _computable(self, value: ir.Value) -> ir.Node | None:
        """The node that computes the value, if it is worth following."""
        node = value.producer()
        if node is None or not foldable(node) or self._constants.is_constant(value):
            return None
        shape = self._shape_of(value)
        if shape is not None and math.prod(size for size in shape if size is not None) > SMALL_SIZE:
            return None
        return node

    def _parents(self, value: ir.Value) -> list[ir.Value]:
        node = self._computable(value)
        if node is None or node.op_type in ("Shape", "Size"):
            return []
        return [each for each in node.inputs if each is not None]

    def _find(self, value: ir.Value) -> Data | None:
        if self._constants.is_constant(value):
            if (self._constants.size(value) or 0) > SMALL_SIZE:
                return None
            array = self._constants.array(value)
            return None if array is None else Data.of(array)
        node = self._computable(value)
        if node is None:
            return None
        if node.op_type in ("Shape", "Size"):
            return self._of_shape(node)
        inputs = [None if each is None else self._found.get(each) for each in node.inputs]
        if any(data is None and each is not None for data, each in zip(inputs, node.inputs, strict=True)):
            return None
        return _compute(node, inputs, self._opset)

    def _of_shape(self, node: ir.Node) -> Data | None:
        """What Shape (of a slice of the axes, from opset 15) and Size give."""
        shape = None if node.inputs[0] is None else self._shape_of(node.inputs[0])
        if shape is None:
            return None
        if node.op_type == "Shape":
            return Data.of_sizes(shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end")])
        if None in shape:
            return None
        return Data.of(np.array(math.prod(size for size in shape if size is not None), dtype=np.int64))


def _compute(node: ir.Node, inputs: Sequence[Data | None], opset: int) -> Data | None:
    """The node's output, where an unknown entry makes unknown just the entries that depend on it."""
    given = [data for data in inputs if data is not None]
    values = evaluate(node, [None if data is None else data.values for data in inputs], opset)
    if values is None or not given:
        return None
    if all(data.complete for data in given):
        return Data.of(values)
    known = _known(node, inputs, opset)
    if known is None or known.shape != values.shape:
        return None
    return Data(np.where(known, values, np.ones_like(values)), known)


def _known(node: ir.Node, inputs: Sequence[Data | None], opset: int) -> npt.NDArray[np.bool_] | None:
    """Which entries of the output follow from known entries."""
    given = [data for data in inputs if data is not None]
    masks = [data.known for data in given]
    if node.op_type == "Concat" or (node.op_type in MOVING_OPS and all(data.complete for data in given[1:])):
        # The masks move as the entries do.
        moved = [None if data is None else data.values for data in inputs]
        for i, data in enumerate(inputs):
            if data is not None and (i == 0 or node.op_type == "Concat"):
                moved[i] = data.known.astype(np.int64)
        result = evaluate(node, moved, opset)
        return None if result is None else result.astype(np.bool_)
    if node.op_type in ELEMENTWISE_OPS or node.op_type == "Equal":
        return functools.reduce(np.logical_and, masks)
    if node.op_type == "Where":
        return np.logical_and(masks[0], np.where(given[0].values, masks[1], masks[2]))
    return None


# --- sizes of which only some are known ---


def _reshape_sizes(node: ir.Node, shape: Shape | None, wanted: Shape) -> Shape | None:
    """One size that is missing is what is left of the input's elements."""
    copies = not node.attributes.get_int("allowzero", 0)
    sizes: list[int | None] = []
    for axis, size in enumerate(wanted):
        if size == 0 and copies:
            sizes.append(shape[axis] if shape is not None and axis < len(shape) else None)
        else:
            sizes.append(None if size == -1 else size)
    if shape is not None and None not in shape and sizes.count(None) == 1:
        rest = math.prod(size for size in sizes if size is not None)
        total = math.prod(size for size in shape if size is not None)
        if rest > 0 and total % rest == 0:
            sizes[sizes.index(None)] = total // rest
    return tuple(sizes)


def _expand_sizes(node: ir.Node, shape: Shape | None, wanted: Shape) -> Shape | None:
    """Broadcasting: a size other than 1 wins."""
    if shape is None:
        return None
    rank = max(len(shape), len(wanted))
    ours = (1,) * (rank - len(shape)) + shape
    theirs = (1,) * (rank - len(wanted)) + wanted
    return tuple(_broadcast_size(a, b) for a, b in zip(ours, theirs, strict=True))


def _broadcast_size(a: int | None, b: int | None) -> int | None:
    if a == 1 or b == 1:
        return b if a == 1 else a
    return a if a is not None else b


def _resize_sizes(node: ir.Node, shape: Shape | None, wanted: Shape) -> Shape | None:
    """The fourth input, from opset 11, holds the sizes."""
    if len(node.inputs) < 4 or "axes" in node.attributes or "keep_aspect_ratio_policy" in node.attributes:
        return None
    return wanted


SIZE_RULES: dict[str, Callable[[ir.Node, Shape | None, Shape], Shape | None]] = {
    "Reshape": _reshape_sizes,
    "Expand": _expand_sizes,
    "Resize": _resize_sizes,
    "ConstantOfShape": lambda node, shape, wanted: wanted,
}
"""The output's shape, from that of the first input and from the sizes that are the last input's entries."""
