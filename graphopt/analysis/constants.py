"""Which values of a model are constants, and what they hold.

A constant is an initializer, the output of a Constant node, or what cheap deterministic operators make of
constants. Weights stay lazy: nothing is read that is not asked for.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.evaluation import LAYOUT_OPS, SMALL_SIZE, AnyArray, evaluate, foldable
from graphopt.analysis.operators import is_standard
from graphopt.model.carried import SparseTensor
from graphopt.model.defaults import forced
from graphopt.model.traversal import post_order


def default_opset(model: ir.Model) -> int:
    """The version of the default operator domain that the model imports; 1 where it imports none."""
    imports = model.graph.opset_imports
    return imports.get("", imports.get("ai.onnx", 1))


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """What a Constant node holds; None for another node, a sparse tensor, or a function's parameter."""
    if node.op_type != "Constant" or not is_standard(node) or len(node.attributes) != 1:
        return None
    name, attribute = next(iter(node.attributes.items()))
    if attribute.is_ref():
        return None
    if name == "value":
        return attribute.as_tensor()
    if name in ("value_float", "value_floats"):
        return ir.tensor(np.array(attribute.value, dtype=np.float32))
    if name in ("value_int", "value_ints"):
        return ir.tensor(np.array(attribute.value, dtype=np.int64))
    if name in ("value_string", "value_strings"):
        text = np.array(attribute.value, dtype=np.object_)
        encoded = [item.encode() if isinstance(item, str) else item for item in text.ravel().tolist()]
        return ir.StringTensor(encoded, shape=ir.Shape(text.shape))
    return None


class Constants:
    """The constants of a model, found when asked for and kept for as long as this object lives.

    It is a snapshot: make a new one after an edit.

    Args:
        model: the model; it is not changed.
        frozen: take initializers that are also graph inputs for constants, whatever the IR version.
    """

    def __init__(self, model: ir.Model, frozen: bool = False) -> None:
        self._model = model
        self._fixed = frozen or forced(model)
        self._opset = default_opset(model)
        self._sizes: dict[ir.Value, int | None] = {}
        self._arrays: dict[ir.Value, AnyArray | None] = {}

    def array(self, value: ir.Value | None) -> AnyArray | None:
        """The value's constant, read-only, in its own type; None when the value is no constant."""
        if value is None or self.size(value) is None:
            return None
        # Large arrays are made by chains of layout operators, each on the first input of the next.
        chain = []
        while value not in self._arrays:
            chain.append(value)
            node = value.producer()
            if self._tensor(value) is not None or node is None or node.inputs[0] is None:
                break
            value = node.inputs[0]
        for each in reversed(chain):
            self._arrays[each] = self._read(each)
            value = each
        return self._arrays[chain[0]] if chain else self._arrays[value]

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether the value is a constant; reads no tensor of more than a few thousand elements."""
        return value is not None and self.size(value) is not None

    def size(self, value: ir.Value) -> int | None:
        """The number of elements of a constant; None when the value is no constant."""
        if value not in self._sizes:
            for each in post_order(value, self._parents, self._sizes):
                self._sizes[each] = self._find_size(each)
        return self._sizes[value]

    def dtype(self, value: ir.Value) -> np.dtype[Any] | None:
        """The type of a constant; None when the value is no constant."""
        tensor = self._tensor(value)
        kind = tensor.dtype if tensor is not None else value.dtype
        if kind is not None:
            return np.dtype(kind.numpy())
        array = self.array(value)
        return None if array is None else array.dtype

    def is_sparse(self, value: ir.Value) -> bool:
        """Whether the value is a constant of which the model holds the elements other than 0."""
        return isinstance(self._tensor(value), SparseTensor)

    def overridable(self, value: ir.Value | None) -> bool:
        """Whether the value would be a constant, but a caller of the model may feed another initializer."""
        if value is None or self._fixed or self.is_constant(value):
            return False
        return self._as_if_frozen.is_constant(value)

    @functools.cached_property
    def _as_if_frozen(self) -> Constants:
        return Constants(self._model, frozen=True)

    def _tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The tensor that the model holds for the value, if no one can feed another."""
        if value.is_graph_input() and not (self._fixed and value.graph is self._model.graph):
            return None  # what a Loop gives its body is no constant either, whatever the body's initializers
        if value.is_initializer():
            return value.const_value
        node = value.producer()
        return None if node is None else constant_tensor(node)

    def _parents(self, value: ir.Value) -> list[ir.Value]:
        node = value.producer()
        if node is None or not foldable(node):
            return []
        return [each for each in node.inputs if each is not None]

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
        if max(sizes) <= SMALL_SIZE:
            self._arrays[value] = self._read(value)
            array = self._arrays[value]
            return None if array is None else array.size
        keeps_elements = node.op_type in LAYOUT_OPS and all(size <= SMALL_SIZE for size in sizes[1:])
        return sizes[0] if keeps_elements else None

    def _read(self, value: ir.Value) -> AnyArray | None:
        """The array of a tensor, or of a node whose first input's array is there or small."""
        tensor = self._tensor(value)
        node = value.producer()
        array = None
        if tensor is not None:
            array = tensor.numpy()
        elif node is not None:
            inputs = [None if each is None else self._operand(each) for each in node.inputs]
            array = evaluate(node, inputs, self._opset)
        if array is None:
            return None
        array = array.view()
        array.flags.writeable = False  # it may be the model's own memory
        return array

    def _operand(self, value: ir.Value) -> AnyArray | None:
        if value not in self._arrays:  # a tensor: what is computed from small ones is there already
            self._arrays[value] = self._read(value)
        return self._arrays[value]
