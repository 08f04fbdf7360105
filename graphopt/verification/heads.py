"""What the outputs of a model are made of: the values that its layers make, and the operators behind them.

Operators that decide (a ranking, a threshold) turn rounding into another answer, so that what they make says
little of what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.analysis.constants import Constants
from graphopt.analysis.operators import (
    NO_TENSORS,
    RANKINGS,
    SIZED_BY,
    SUMS,
    THRESHOLDS,
    VIEWS,
    is_standard,
)
from graphopt.analysis.shapes.inference import infer
from graphopt.errors import InputError
from graphopt.model.traversal import subgraphs, topological
from graphopt.types import Shape

Told: TypeAlias = tuple[Callable[[ir.Value], "ir.DataType | None"], Callable[[ir.Value], "Shape | None"]]
"""What tells the type of a value, and what its shape."""
MOVES = VIEWS | {"Transpose", "Identity"}
"""Operators that leave the elements of what they read as they are."""


RANKED_ALONG = {"ArgMax": 0, "ArgMin": 0, "TopK": -1, "Hardmax": -1}
"""Operators that rank along an axis, and which one they do where they name none."""
SIZES = ("Shape", "Size")
"""Operators that tell no more of an input than its size."""


class Heads:
    """What the operators behind the last layers of a model read and make.

    Args:
        model: the model; it is not changed.
        outputs: those of its outputs that count.

    Attributes:
        constants: the model's constants.
        outputs: the outputs that count.
        decisions: operators of the outermost graph that decide: all rankings, the thresholds behind which no
            layer stands, and those on which it depends how many rows there are or what is run at all (others
            are part of an activation).
        following: they and the operators that work on what was decided, up to the next layer.
    """

    def __init__(self, model: ir.Model, outputs: Iterable[ir.Value]) -> None:
        self.constants = Constants(model)
        self.outputs = tuple(outputs)
        nodes = topological(model.graph)
        self._told = {value for value in model.graph.inputs if not value.is_initializer()}
        for node in nodes:
            if self.read(node) and node.op_type not in SIZES:
                self._told.update(node.outputs)
        needed, summed, steering = self._backwards(nodes)
        self.decisions = tuple(
            node
            for node in nodes
            if node in needed
            and self.read(node)
            and (_ranks(node) or self._is_threshold(node, summed, steering) or self._sizing(node)[1])
        )
        self._decided: set[ir.Value] = set()
        self._behind: set[ir.Value] = set()
        following = []
        for node in nodes:
            follows = any(value in self._decided for value in self.read(node))
            if node in self.decisions or any(value in self._behind for value in self.read(node)):
                self._behind.update(node.outputs)
            if node in self.decisions or (follows and node in needed and not is_layer(node)):
                self._decided.update(node.outputs)
                following.append(node)
        self.following = tuple(following)

    def told(self, value: ir.Value) -> bool:
        """Whether the value depends on what an input holds, and not on its size alone."""
        return value in self._told

    def read(self, node: ir.Node) -> list[ir.Value]:
        """Those of the values that an operator reads, also inside its bodies, that depend on inputs."""
        return [value for value in dict.fromkeys(used(node)) if value in self._told]

    def decided(self, value: ir.Value) -> bool:
        """Whether it is made of what was decided, without a layer in between."""
        return value in self._decided

    def behind(self, value: ir.Value) -> bool:
        """Whether something was decided anywhere before it, so that another decision gives it other rows."""
        return value in self._behind

    def measured(
        self, output: ir.Value, dtype: Callable[[ir.Value], ir.DataType | None]
    ) -> tuple[ir.Value, ...]:
        """What tells how near an approximate model comes to an output: numbers that nothing decided.

        An output of such numbers is measured itself. In the place of another one (rows that were picked, an
        order, places, truth values, texts, sequences) stand the nearest such values that it is made of; where
        layers follow on what was decided, also those that it was decided on.

        Args:
            output: an output that counts.
            dtype: tells the type of a value's elements; None where nothing does.

        Returns:
            The values; none where nothing but inputs stands before what was decided.
        """
        if not self.told(output) and is_tensor(output):  # the same whatever the inputs hold
            return (output,)
        stack, seen, found = [output], set[ir.Value](), dict[ir.Value, None]()
        while stack:
            value = stack.pop()
            node = value.producer()
            if value in seen or node is None:
                continue
            seen.add(value)
            kind = dtype(value)
            number = is_tensor(value) and (kind is None or kind.is_floating_point())
            if not self.decided(value) and (number or is_layer(node)):
                found[value] = None
                if self.behind(value):
                    stack += [each for other in self.following for each in reversed(self.read(other))]
            elif not is_layer(node):
                stack += reversed(self.read(node))
        return tuple(found)

    def leading_to(self, values: Iterable[ir.Value]) -> set[ir.Node]:
        """The operators, those in bodies among them, that these values are made by."""
        stack, found = list(values), set[ir.Node]()
        while stack:
            node = stack.pop().producer()
            if node is not None and node not in found:
                found.update(_with_bodies(node))
                stack += self.read(node)
        return found

    def rankings(self, value: ir.Value) -> set[tuple[int | None, bool]]:
        """How operators rank the elements of a value, or name them.

        Returns:
            For each way the axis, None where no operator names one, and whether the least comes first.
        """
        readers = [use.node for use in value.uses() if not use.idx]
        return {
            _ranking(node)
            for node in readers
            if node.op_type == "ZipMap" or (node in self.decisions and _ranks(node))
        }

    def joined(self, value: ir.Value) -> bool:
        """Whether it is several values side by side, each of which may be of another magnitude."""
        node = value.producer()
        while node is not None and node.op_type in MOVES and node.inputs and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node is not None and node.op_type == "Concat" and is_standard(node)

    def _is_threshold(self, node: ir.Node, summed: set[ir.Value], steering: set[ir.Value]) -> bool:
        """Whether an operator jumps, and not as a part of an activation."""
        return _jumps(node) and any(value in steering or value not in summed for value in node.outputs)

    def _sizing(self, node: ir.Node) -> tuple[set[ir.Value], bool]:
        """What sizes in an operator and its bodies, or what they run, depend on.

        Returns:
            The values of the outermost graph, and whether an operator of a body jumps on the way from there.
        """
        inside: set[ir.Value] = set()
        self._tell_bodies(node, inside)
        stack, seen, found, jumped = list(_sizing(node)), set[ir.Value](), set[ir.Value](), False
        while stack:
            value = stack.pop()
            if value in seen:
                continue
            seen.add(value)
            maker = value.producer()
            if self.told(value):
                found.add(value)
            elif value in inside and maker is None:
                found.update(self.read(node))
            elif value in inside and maker is not None and not is_layer(maker):
                jumped |= _jumps(maker)
                stack += used(maker)
        return found, jumped

    def _tell_bodies(self, node: ir.Node, told: set[ir.Value]) -> None:
        """Adds the values in the bodies of an operator that depend on what inputs hold, or may."""
        for body in subgraphs(node):
            told.update(body.inputs[2:] if node.op_type == "Loop" else body.inputs)
            for inner in body:
                self._tell_bodies(inner, told)
                read = any(value in told or value in self._told for value in used(inner))
                if read and inner.op_type not in SIZES:
                    told.update(inner.outputs)

    def _backwards(self, nodes: list[ir.Node]) -> tuple[set[ir.Node], set[ir.Value], set[ir.Value]]:
        """The operators that the outputs need, and values by what follows on them.

        Returns:
            The operators; the values that a needed layer comes behind; those on which sizes, or what is run,
            depend without a layer in between.
        """
        needed: set[ir.Node] = set()
        wanted, summed, steering = set(self.outputs), set[ir.Value](), set[ir.Value]()
        for node in reversed(nodes):
            if not any(value in wanted for value in node.outputs):
                continue
            needed.add(node)
            wanted.update(self.read(node))
            if is_layer(node) or any(value in summed for value in node.outputs):
                summed.update(self.read(node))
            steering.update(self._sizing(node)[0])
            if not is_layer(node) and any(value in steering for value in node.outputs):
                steering.update(self.read(node))
        return needed, summed, steering


def counted(model: ir.Model, kept: Sequence[str]) -> list[ir.Value]:
    """A model's outputs that count: those of these names, all when empty."""
    return [value for value in model.graph.outputs if not kept or value.name in kept]


def told(model: ir.Model) -> Told:
    """Tell the types and the shapes of a model's values, as far as they are declared or follow."""
    try:
        found = infer(model, Constants(model), assume_batch=None)
    except InputError:  # what onnx's rules refuse may run
        return lambda value: value.dtype, declared
    return found.dtype, found.get


def declared(value: ir.Value) -> Shape | None:
    """The shape that a value declares; None for none, and for sizes that are open."""
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def is_tensor(value: ir.Value) -> bool:
    """Whether the value is a tensor of numbers, as far as is declared or its operator tells."""
    if value.type is None:
        node = value.producer()
        return node is None or node.op_type not in NO_TENSORS
    return isinstance(value.type, ir.TensorType) and value.dtype is not ir.DataType.STRING


def is_layer(node: ir.Node) -> bool:
    """Whether the operator sums up what it reads, or has a body in which one does."""
    return any(each.op_type in SUMS for each in _with_bodies(node))


def used(node: ir.Node) -> Iterator[ir.Value]:
    """The values that an operator reads, also inside its bodies."""
    for each in _with_bodies(node):
        yield from (value for value in each.inputs if value is not None)
        for body in subgraphs(each):
            yield from body.outputs


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in subgraphs(node):
        for inner in body:
            yield from _with_bodies(inner)


def _sizing(node: ir.Node) -> Iterator[ir.Value]:
    """The values by whose content an operator, or one in its bodies, decides on sizes or what is run."""
    for each in _with_bodies(node):
        if not is_standard(each):
            continue
        places = SIZED_BY.get(each.op_type, ())
        yield from (value for place, value in enumerate(each.inputs) if place in places and value is not None)
        if each.op_type == "Loop":
            yield from (body.outputs[0] for body in subgraphs(each))


def _ranks(node: ir.Node) -> bool:
    """Whether an operator ranks, or has a body in which one does; MaxPool does where its places are read."""
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return bool(node.outputs[1].uses()) or node.outputs[1].is_graph_output()
    return any(each.op_type in RANKINGS and is_standard(each) for each in _with_bodies(node))


def _ranking(node: ir.Node) -> tuple[int | None, bool]:
    """The axis that an operator ranks along, None where it names none, and whether the least comes first."""
    if node.op_type not in RANKED_ALONG or not is_standard(node):
        return None, False
    largest = node.attributes.get_int("largest", 1)
    axis = node.attributes.get_int("axis", RANKED_ALONG[node.op_type])
    return axis, node.op_type == "ArgMin" or not largest


def _jumps(node: ir.Node) -> bool:
    if node.op_type not in THRESHOLDS or not is_standard(node):
        return False
    value = node.inputs[0]
    if value is not None and value.dtype is not None and not value.dtype.is_floating_point():
        return False
    if node.op_type != "Cast":
        return True
    to = node.attributes.get("to")
    return to is not None and not ir.DataType(to.as_int()).is_floating_point()
