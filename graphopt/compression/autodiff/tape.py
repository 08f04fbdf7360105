"""The tape of reverse-mode differentiation: collects the ONNX operators that compute gradients."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis.attributes import ints
from graphopt.analysis.constants import default_opset
from graphopt.analysis.shapes.data_propagation import DataPropagation
from graphopt.analysis.snapshot import Analysis

Gradient: TypeAlias = "str | None"
"""The name of a gradient; None where an input has none."""
Matrix: TypeAlias = npt.NDArray[Any]


class UnsupportedError(Exception):
    """There is no rule for an operator, or not for this form of it."""


class Tape:
    """Operators that make gradients, as they are taken down.

    Args:
        analysis: a snapshot of the model, at the sizes that are run.
        moving: names of the values whose gradients are of interest.
        prefix: of the names that are given.

    Attributes:
        analysis: the snapshot.
        version: of the operator set.
        nodes: the operators so far.
        constants: their constants, by name.
    """

    def __init__(self, analysis: Analysis, moving: Collection[str], prefix: str) -> None:
        self.analysis = analysis
        self._moving = moving
        self._prefix = prefix
        self.version = default_opset(analysis.model)
        self._values = DataPropagation(analysis.constants, analysis.shape, self.version)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, npt.NDArray[Any]] = {}

    # ------------------------------------------------------------ what is known of the model

    def moves(self, value: ir.Value | None) -> bool:
        """Whether a value's gradient is of interest."""
        return value is not None and value.name in self._moving

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """A value's shape.

        Raises:
            UnsupportedError: it is not known.
        """
        shape = self.analysis.shape(value)
        if shape is None or None in shape:
            raise UnsupportedError
        return tuple(int(size or 0) for size in shape)

    def sizes(self, node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of what an operator reads first and of what it makes."""
        return self.shape(node.inputs[0]), self.shape(node.outputs[0])

    def axis(self, node: ir.Node, default: int | None = None) -> int:
        """The axis that an operator works along, counted from the front.

        Raises:
            UnsupportedError: it names none, or one that is not there.
        """
        rank = len(self.shape(node.inputs[0]))
        if "axis" not in node.attributes and default is None:
            raise UnsupportedError
        axis = node.attributes.get_int("axis", default or 0)
        if not -rank <= axis < rank:
            raise UnsupportedError
        return axis % rank

    def numbers(self, node: ir.Node, key: str, index: int) -> list[int] | None:
        """Whole numbers that older operator sets keep in an attribute and newer ones take as an input.

        Args:
            node: the operator.
            key: name of the attribute.
            index: place of the input.

        Returns:
            The numbers; None where the operator has neither.

        Raises:
            UnsupportedError: the input is neither a constant nor follows from shapes.
        """
        return ints(node, key, index, self.content)

    def content(self, value: ir.Value | None) -> Matrix:
        """The content of a constant, or of what follows from shapes.

        Raises:
            UnsupportedError: it is neither.
        """
        array = self.analysis.constant(value)
        if array is not None:
            return array
        data = self._values.get(value)
        if data is None or not data.complete:
            raise UnsupportedError
        return data.values

    # ------------------------------------------------------------ operators

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Take down an operator of one output.

        Args:
            kind: its operator type.
            *inputs: names of its inputs; "" for one that is left out.
            **attributes: its attributes.

        Returns:
            The name of its output.
        """
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Take down an operator of several outputs.

        Args:
            kind: its operator type.
            *inputs: names of its inputs; "" for one that is left out.
            outputs: how many outputs it has.
            **attributes: its attributes.

        Returns:
            The names of its outputs.
        """
        names = [f"{self._prefix}/{len(self.nodes)}/{number}" for number in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def again(self, node: ir.Node, x: str) -> str:
        """The same operator on another first input; returns the name of its first output."""
        copy = ir.to_proto(node)
        copy.input[0] = x
        copy.name = ""
        made = f"{self._prefix}/{len(self.nodes)}"
        for place in range(len(copy.output)):
            copy.output[place] = f"{made}/{place}"
        self.nodes.append(copy)
        return str(copy.output[0])

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A constant; returns its name."""
        name = f"{self._prefix}/constant/{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def scaled(self, x: str, factor: npt.ArrayLike) -> str:
        """A value times a constant."""
        return self.op("Mul", x, self.constant(factor))

    def sum(self, parts: Sequence[str]) -> str:
        """The sum of values of one shape."""
        return parts[0] if len(parts) == 1 else self.op("Sum", *parts)

    def mask(self, condition: str) -> str:
        """1 where a condition holds, else 0."""
        return self.op("Cast", condition, to=onnx.TensorProto.FLOAT)

    def above(self, x: str, limit: str) -> str:
        """1 where one value is greater than another, else 0."""
        return self.mask(self.op("Greater", x, limit))

    def at_least(self, x: str, limit: str) -> str:
        """1 where one value is as great as another or greater, else 0."""
        return self.mask(self.op("Not", self.op("Less", x, limit)))

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """A value in another shape."""
        return self.op("Reshape", x, self.constant(shape, np.int64))

    def like(self, x: str, other: str) -> str:
        """A value in the shape of another one of as many numbers."""
        return self.op("Reshape", x, self.op("Shape", other))

    def total(self, x: str, axes: Sequence[int], *, mean: bool = False) -> str:
        """The sum or mean over axes, which are kept.

        Args:
            x: name of the value.
            axes: the axes to sum over, which stay with size 1; none for the value itself.
            mean: whether to take the mean instead.

        Returns:
            The name of the result.
        """
        if not axes:
            return x
        kind, since = ("ReduceMean", 18) if mean else ("ReduceSum", 13)
        if self.version >= since:
            return self.op(kind, x, self.constant(axes, np.int64), keepdims=1)
        return self.op(kind, x, axes=list(axes), keepdims=1)

    def repeated(self, x: str, times: Sequence[int]) -> str:
        """A value side by side with itself so many times along each axis."""
        if all(n == 1 for n in times):
            return x
        return self.op("Tile", x, self.constant(times, np.int64))

    def padded(self, x: str, begin: Sequence[int], end: Sequence[int]) -> str:
        """A value with so many zeros around it on each axis; less than none cut off.

        Args:
            x: name of the value.
            begin: zeros in front, per axis; negative to cut off.
            end: zeros behind, per axis.

        Returns:
            The name of the result.
        """
        pads = [*begin, *end]
        if not any(pads):
            return x
        if self.version >= 11:
            return self.op("Pad", x, self.constant(pads, np.int64))
        return self.op("Pad", x, pads=pads)

    def sliced(
        self,
        x: str,
        start: Sequence[int],
        stop: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int],
        sizes: Sequence[int],
    ) -> str:
        """Every so many numbers of a value along some axes.

        Args:
            x: name of the value.
            start: the first along each axis.
            stop: behind the last.
            axes: the axes.
            steps: from one to the next.
            sizes: of the value along the axes.

        Returns:
            The name of the result; the value itself where it is all of it.
        """
        if not any(start) and list(stop) == list(sizes) and all(step == 1 for step in steps):
            return x
        if self.version >= 10:
            given = (self.constant(numbers, np.int64) for numbers in (start, stop, axes, steps))
            return self.op("Slice", x, *given)
        x = self.op("Slice", x, starts=list(start), ends=list(stop), axes=list(axes))
        for axis, first, last, step in zip(axes, start, stop, steps, strict=True):
            if step != 1:  # before Slice had steps
                x = self.op("Gather", x, self.constant(np.arange(0, last - first, step), np.int64), axis=axis)
        return x

    def split(self, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """The parts of a value along an axis.

        Args:
            x: name of the value.
            axis: the axis to cut.
            sizes: of the parts.

        Returns:
            The names of the parts.
        """
        count = len(sizes)
        if self.version >= 13:
            return self.ops("Split", x, self.constant(sizes, np.int64), outputs=count, axis=axis)
        return self.ops("Split", x, outputs=count, axis=axis, split=list(sizes))

    def along(self, x: str, rank: int, axis: int, matrix: Matrix) -> str:
        """Multiplies an axis by a matrix ``[n, m]``: n numbers on it become m.

        Args:
            x: name of the value.
            rank: number of its axes.
            axis: the one to multiply, from 0.
            matrix: ``[n, m]``.

        Returns:
            The name of the product.
        """
        if axis == rank - 1:
            return self.op("MatMul", x, self.constant(matrix))
        if axis == rank - 2:
            return self.op("MatMul", self.constant(matrix.T), x)
        order = [a for a in range(rank) if a != axis] + [axis]
        turned = self.op("Transpose", x, perm=order)
        product = self.op("MatMul", turned, self.constant(matrix))
        return self.op("Transpose", product, perm=[order.index(a) for a in range(rank)])

    def reduced(self, g: str, node: ir.Node, index: int, *, last: int = 0) -> str:
        """A gradient summed over the axes on which an input was repeated, those at the end left apart.

        Args:
            g: name of the gradient, of the shape of the output.
            node: the operator of the model.
            index: place of the input.
            last: axes at the end to leave apart.

        Returns:
            The name of the sum, of the shape of the input.
        """
        ours, theirs = self.shape(node.inputs[index]), self.shape(node.outputs[0])
        if ours == theirs:
            return g
        more, leading = len(theirs) - len(ours), range(len(theirs) - last)
        g = self.total(g, [a for a in leading if a < more or (theirs[a] > 1 and ours[a - more] == 1)])
        return self.reshape(g, ours) if more else g

    def spread(self, g: str, ours: Sequence[int], axes: Sequence[int]) -> str:
        """A gradient, of size 1 along axes, repeated along them to a shape.

        Args:
            g: name of the gradient.
            ours: the shape to give it.
            axes: those along which it has size 1.

        Returns:
            The name of the result.
        """
        return self.repeated(g, [n if axis in axes else 1 for axis, n in enumerate(ours)])

    def zeros(self, shape: Sequence[int]) -> str:
        """Zeros of a shape."""
        return self.repeated(self.constant(np.zeros((1,) * len(shape))), shape)


def name_of(value: ir.Value | None) -> str:
    """A value's name.

    Raises:
        UnsupportedError: it is left out.
    """
    if value is None or not value.name:
        raise UnsupportedError
    return value.name


def ends(node: ir.Node) -> tuple[str, str]:
    """The names of what an operator reads first and of what it makes."""
    return name_of(node.inputs[0]), name_of(node.outputs[0])


def count(shape: Sequence[int], axes: Sequence[int]) -> int:
    """Numbers along some axes of a shape."""
    return math.prod(shape[axis] for axis in axes)
