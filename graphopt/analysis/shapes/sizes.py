"""What inference found: shape, type and content of the values of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import onnx
import onnx_ir as ir

from graphopt.analysis.evaluation import AnyArray
from graphopt.analysis.shapes.data_propagation import DataPropagation
from graphopt.analysis.shapes.open_sizes import OpenSizes
from graphopt.analysis.shapes.tensor_types import tensor_shape
from graphopt.types import Dims, Shape


class Equation(NamedTuple):
    """What an operator demands of an open size.

    Attributes:
        name: of the size.
        size: what it has to be, by number or by name.
        certain: whether the model runs at no other; else it may, such as one that is broadcast, or that the
            file declares.
        broadcast: whether it runs at no other but 1.
    """

    name: str
    size: int | str
    certain: bool
    broadcast: bool = False


class Sizes:
    """The shapes of a model's values, as found by `inference.infer`.

    Attributes:
        unknown_dims: the input dimensions that nobody bound, as ``x[2]=height``.
        observed: the names of the values whose shape was taken from `known`, in topological order.
        disputed: the values to which onnx's rules give other sizes than onnxruntime's, and all that follows
            from them.
        pinned: the open sizes of inputs at which alone the model runs, by name.
        open: the open sizes of inputs that are not pinned, and what operators make of them.
        equations: what operators demand of those.
        varying: the values that open sizes of inputs may reach, whoever gave them, with the names of those.
    """

    __slots__ = (
        "_contents",
        "_named",
        "_shapes",
        "_types",
        "disputed",
        "equations",
        "observed",
        "open",
        "pinned",
        "unknown_dims",
        "varying",
    )

    def __init__(
        self,
        shapes: Mapping[ir.Value, Shape | None],
        unknown_dims: tuple[str, ...] = (),
        observed: tuple[str, ...] = (),
        types: Mapping[ir.Value, onnx.TypeProto] | None = None,
        disputed: frozenset[ir.Value] = frozenset(),
        contents: DataPropagation | None = None,
        pinned: Mapping[str, int] | None = None,
        open_sizes: OpenSizes | None = None,
        equations: tuple[Equation, ...] = (),
        named: Mapping[ir.Value, Dims] | None = None,
        varying: Mapping[ir.Value, frozenset[str]] | None = None,
    ) -> None:
        self._shapes = shapes
        self._types = types or {}
        self._contents = contents
        self.unknown_dims = unknown_dims
        self.observed = observed
        self.disputed = disputed
        self.pinned = pinned or {}
        self.open = open_sizes or OpenSizes()
        self.equations = equations
        self._named = named or {}
        self.varying = varying or {}

    def get(self, value: ir.Value | None) -> Shape | None:
        """The value's shape, with None for each unknown size; None when even the rank is unknown."""
        if value is None:
            return None
        if value not in self._shapes and value.const_value is not None:
            return tensor_shape(value.const_value)
        return self._shapes.get(value)

    def dims(self, value: ir.Value) -> Dims | None:
        """The value's shape, with names for sizes that follow from open ones."""
        return self._named.get(value, self.get(value))

    def content(self, value: ir.Value) -> AnyArray | None:
        """What a small value holds at these sizes, where that follows from constants and shapes alone."""
        data = None if self._contents is None else self._contents.get(value)
        return data.values if data is not None and data.complete else None

    def entries(self, value: ir.Value) -> Shape | None:
        """The whole numbers that a small value holds, as far as they follow; None where none does."""
        data = None if self._contents is None else self._contents.get(value)
        return data.entries() if data is not None and data.values.dtype.kind in "iu" else None

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of the value's elements, declared or inferred; None where nothing tells."""
        if value.dtype is not None:
            return value.dtype
        found = self._types.get(value)
        return None if found is None else ir.DataType(found.tensor_type.elem_type) or None
