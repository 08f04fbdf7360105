"""Which values of a model are constants, and what they hold.

A constant is an initializer, the output of a Constant node, or what deterministic operators make of
constants: sizes and scales, and weights that are normalised, standardised, split or stored in another type.
Weights stay lazy: nothing is read that is not asked for. So that a small file can't ask for much, no constant
is larger than what the model holds, and all together take no more than `WORK` passes over that.

What float16 or bfloat16 is computed in is up to who runs the model: onnxruntime's CPU keeps float32 from
operator to operator, others round after each. A constant is what both make the same of, up to rounding; a
square that leaves the range in between, or vanishes, makes none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from graphopt.analysis.evaluation import (
    LAYOUT_OPS,
    MOVING_OPS,
    NARROW,
    SMALL_SIZE,
    WEIGHT_OPS,
    AnyArray,
    computes,
    evaluate,
    widened,
)
from graphopt.analysis.operators import COUNTS, KEEPS_TYPE, RANDOM, is_standard
from graphopt.model.carried import SparseTensor, stored_bytes
from graphopt.model.constant_nodes import constant_tensor
from graphopt.model.defaults import forced
from graphopt.model.traversal import graphs, post_order, subgraphs

Made = TypeVar("Made")

WORK = 16
"""Passes over the elements that a model holds, up to which constants are computed: derived, twice the eight
operators of a standardised weight (mean, difference, square, mean, sum, root, quotient, gain)."""
ROUNDINGS = 8
"""Roundings of the largest element by which a constant may differ where each operator rounds to float16 or
bfloat16: derived, one for each of the same eight operators."""


def default_opset(model: ir.Model) -> int:
    """The version of the default operator domain that the model imports; 1 where it imports none."""
    imports = model.graph.opset_imports
    return imports.get("", imports.get("ai.onnx", 1))


class Memory:
    """What was found in tensors, for as long as they live: the snapshots of a run share those that stay."""

    def __init__(self) -> None:
        self._found = WeakKeyDictionary[ir.TensorProtocol, dict[Hashable, object]]()

    def once(self, tensor: ir.TensorProtocol, what: Hashable, find: Callable[[], Made]) -> Made:
        """What is found in a tensor, found once.

        Args:
            tensor: the tensor, which does not change.
            what: what is looked for: all that the answer depends on besides.
            find: finds it.

        Returns:
            The answer.
        """
        known = self._found.setdefault(tensor, {})
        if what not in known:
            known[what] = find()
        return cast("Made", known[what])


class Constants:
    """The constants of a model, found when asked for and kept for as long as this object lives.

    It is a snapshot: make a new one after an edit.

    Args:
        model: the model; it is not changed.
        frozen: take initializers that are also graph inputs for constants, whatever the IR version.
        wide: hold float16 and bfloat16 in float32, rounded by no operator but a Cast.
        memory: what was found in the model's tensors before.
    """

    def __init__(
        self, model: ir.Model, frozen: bool = False, *, wide: bool = False, memory: Memory | None = None
    ) -> None:
        self._model = model
        self._memory = memory or Memory()
        self._wide = wide
        self._fixed = frozen or forced(model)
        self._opset = default_opset(model)
        self._sizes: dict[ir.Value, int | None] = {}
        self._arrays: dict[ir.Value, AnyArray | None] = {}
        self._large = _Recent()
        self._rounding: dict[ir.Value, float] = {}
        self._settled: dict[ir.Value, bool] = {}
        self._passed = 0

    def array(self, value: ir.Value | None) -> AnyArray | None:
        """The value's constant, read-only, in its own type; None when the value is no constant."""
        if value is None or self.size(value) is None:
            return None
        array = self._computed(value)
        wide = self._unrounded.array(value) if self._rounding.get(value) else None
        return array if array is None or wide is None else _locked(wide.astype(array.dtype))

    def once(self, value: ir.Value, what: Hashable, find: Callable[[], Made]) -> Made:
        """What is found in a constant: once, where the model holds it as it is.

        Args:
            value: the constant.
            what: as for `Memory.once`.
            find: finds it.

        Returns:
            The answer.
        """
        tensor = self._tensor(value)
        return find() if tensor is None else self._memory.once(tensor, what, find)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether the value is a constant; reads only tensors of which something is computed."""
        return value is not None and self.size(value) is not None

    def size(self, value: ir.Value) -> int | None:
        """The number of elements of a constant; None when the value is no constant."""
        if value not in self._sizes:
            for each in post_order(value, self._parents, self._sizes):
                self._sizes[each] = self._find_size(each)
        return self._sizes[value] if self._is_settled(value) else None

    def dtype(self, value: ir.Value) -> np.dtype[Any] | None:
        """The type of a constant; None when the value is no constant."""
        tensor = self._tensor(value)
        kind = tensor.dtype if tensor is not None else value.dtype
        if kind is not None:
            return np.dtype(kind.numpy())
        array = self.array(value)
        return None if array is None else array.dtype

    def stored_bytes(self, value: ir.Value) -> int:
        """The bytes of the tensors that the model holds for a constant, or that it is computed from."""
        found = 0
        seen: set[ir.Value] = set()
        for each in post_order(value, self._parents, seen):
            seen.add(each)
            tensor = self._tensor(each)
            found += 0 if tensor is None else stored_bytes(tensor)
        return found

    def is_computed(self, value: ir.Value) -> bool:
        """Whether the value is a constant that the model does not hold as it is."""
        return self._tensor(value) is None and self.is_constant(value)

    def is_sparse(self, value: ir.Value) -> bool:
        """Whether the value is a constant of which the model holds the elements other than 0."""
        return isinstance(self._tensor(value), SparseTensor)

    def uncomputed(self, value: ir.Value) -> str:
        """The operator because of which what depends on constants alone is none; "" for other values."""
        guilty = ""
        seen: set[ir.Value] = set()
        for each in post_order(value, self._contents, seen):
            seen.add(each)
            node = each.producer()
            if self._tensor(each) is None and (node is None or node.op_type in RANDOM or self._bodies(node)):
                return ""
            if not guilty and node is not None and not self.is_constant(each):
                guilty = node.op_type
        return guilty

    def unsettled(self, value: ir.Value) -> bool:
        """Whether constants make something else of the value where each operator rounds to a narrow type."""
        seen: set[ir.Value] = set()
        for each in post_order(value, self._inputs, seen):
            seen.add(each)
        return not all(map(self._is_settled, seen))

    def overridable(self, value: ir.Value | None) -> bool:
        """Whether the value would be a constant, but a caller of the model may feed another initializer."""
        if value is None or self._fixed or self.is_constant(value):
            return False
        return self._as_if_frozen.is_constant(value)

    @functools.cached_property
    def _as_if_frozen(self) -> Constants:
        return Constants(self._model, frozen=True)

    @functools.cached_property
    def _unrounded(self) -> Constants:
        return Constants(self._model, self._fixed, wide=True)

    @functools.cached_property
    def _held(self) -> int:
        """The elements of the tensors in the model's initializers and Constant nodes."""
        total = 0
        for graph in graphs(self._model):
            total += sum(v.const_value.size for v in graph.initializers.values() if v.const_value is not None)
            tensors = (constant_tensor(node) for node in graph)
            total += sum(tensor.size for tensor in tensors if tensor is not None)
        return total

    def _tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The tensor that the model holds for the value, if no one can feed another."""
        if value.is_graph_input() and not (self._fixed and value.graph is self._model.graph):
            return None  # what a Loop gives its body is no constant either, whatever the body's initializers
        if value.is_initializer():
            return value.const_value
        node = value.producer()
        return None if node is None else constant_tensor(node)

    def _inputs(self, value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        return [] if node is None else [each for each in node.inputs if each is not None]

    def _contents(self, value: ir.Value) -> list[ir.Value]:
        """What a value's node reads, without what gives a CastLike its type alone."""
        node, inputs = value.producer(), self._inputs(value)
        return inputs[:1] if node is not None and node.op_type == "CastLike" else inputs

    @staticmethod
    def _bodies(node: ir.Node) -> bool:
        return any(True for _ in subgraphs(node))

    def _parents(self, value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        if node is None or self._tensor(value) is not None or not computes(node):
            return []
        return self._contents(value)

    def _find_size(self, value: ir.Value) -> int | None:
        """The number of elements of the value, whose node's inputs have been looked at."""
        tensor = self._tensor(value)
        if tensor is not None:
            return tensor.size
        inputs = self._parents(value)
        sizes = [size for each in inputs if (size := self._sizes.get(each)) is not None]
        node = value.producer()
        if node is None or not sizes or len(sizes) < len(inputs):
            return None
        self._rounding[value] = max(self._rounding.get(each, 0.0) for each in inputs)
        if max(sizes) > SMALL_SIZE and node.op_type in LAYOUT_OPS:
            return sizes[0] if all(size <= SMALL_SIZE for size in sizes[1:]) else None
        if max(sizes) > SMALL_SIZE and (node.op_type not in WEIGHT_OPS or self._passed > WORK * self._held):
            return None
        array = self._computed(value)
        if array is None:
            return None
        if node.op_type not in MOVING_OPS and not self._wide:
            self._rounding[value] = max(self._rounding[value], NARROW.get(array.dtype.name, 0.0))
        return array.size

    def _computed(self, value: ir.Value) -> AnyArray | None:
        """The array of a value, after those that it is made of."""
        known: dict[ir.Value, AnyArray | None] = {}

        def missing(each: ir.Value) -> list[ir.Value]:
            return [] if each in self._arrays or each in self._large else self._parents(each)

        for each in post_order(value, missing, known):
            if each in self._arrays:
                known[each] = self._arrays[each]
            elif each in self._large:
                known[each] = self._large[each]
            else:
                known[each] = array = self._read(each, known)
                held = self._tensor(each) is not None
                if array is None or array.size <= SMALL_SIZE or (held and not self._wide):
                    self._arrays[each] = array
                else:
                    self._passed += 0 if held else array.size
                    self._large.put(each, array, self._held)
        return known[value]

    def _read(self, value: ir.Value, known: Mapping[ir.Value, AnyArray | None]) -> AnyArray | None:
        """The array of a tensor, or of a node whose inputs' arrays are known."""
        tensor = self._tensor(value)
        node = value.producer()
        array = None
        if tensor is not None:
            array = tensor.numpy()
        elif node is not None and node.op_type == "CastLike":
            kind = element_type(node.inputs[1])
            first = None if node.inputs[0] is None else known[node.inputs[0]]
            array = None if kind is None or first is None else first.astype(kind.numpy())
        elif node is not None:
            inputs = [None if each is None else known[each] for each in node.inputs]
            if sum(array is not None for array in inputs) < sum(each is not None for each in node.inputs):
                return None
            most = max(SMALL_SIZE, self._held)
            array = evaluate(node, inputs, self._opset, output=value.index() or 0, most=most)
        if array is None:
            return None
        return _locked(widened(array) if self._wide else array)

    def _is_settled(self, value: ir.Value) -> bool:
        """Whether a constant is the same, up to rounding, where each operator rounds and where none does."""
        rounding = self._rounding.get(value)
        if not rounding:
            return True
        if value not in self._settled:
            array, wide = self._computed(value), self._unrounded.array(value)
            allowed = ROUNDINGS * rounding
            self._settled[value] = (
                array is not None and wide is not None and _alike(wide, widened(array), allowed)
            )
        return self._settled[value]


def element_type(value: ir.Value | None) -> ir.DataType | None:
    """The type of a value: as the file says, or that of what it was made of; None where neither tells."""
    while value is not None and value.dtype is None:
        node = value.producer()
        if node is None or not is_standard(node) or not node.inputs:
            return None
        if node.op_type == "Cast":
            return ir.DataType(node.attributes["to"].as_int())
        if node.op_type in COUNTS:
            return ir.DataType.INT64
        if node.op_type not in KEEPS_TYPE or value is not node.outputs[0]:
            return None
        value = node.inputs[0]
    return None if value is None else value.dtype


def _locked(array: AnyArray) -> AnyArray:
    """The array, read-only: it may be the model's own memory."""
    array = array.view()
    array.flags.writeable = False
    return array


def _alike(one: AnyArray, other: AnyArray, allowed: float) -> bool:
    """Whether two arrays are equal, floats up to this part of the largest element."""
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    known = np.isfinite(one)
    if not np.array_equal(one[~known], other[~known], equal_nan=True):
        return False
    largest = np.abs(one[known]).max(initial=0.0)
    return bool(np.all(np.abs(one[known] - other[known]) <= allowed * largest))


class _Recent(dict[ir.Value, AnyArray]):
    """Large arrays that were computed, the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self._elements = 0

    def put(self, value: ir.Value, array: AnyArray, most: int) -> None:
        """Keeps an array, and of the older ones those that have at most ``most`` elements together."""
        while self and self._elements > most:
            self._elements -= self.pop(next(iter(self))).size
        self[value] = array
        self._elements += array.size
