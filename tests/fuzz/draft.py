"""A model in the making whose every value is known: each operator is run in onnxruntime as it is added.

So a generator needs no shape rules of its own: it asks for the size of a value, and an operator that
onnxruntime does not run is refused at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builders import Array, Net, info, session

T = TypeVar("T")
LARGEST = 60_000
"""Elements that a value may have at its nominal size: graphs are small, so that many fit into a minute."""
BOUNDED = 1e4
"""Magnitude that a value may have; beyond, float16 and the comparison of differences lose their meaning."""

NOMINAL = "nominal sizes"
"""The property of a model that holds the open sizes at which it was made."""


class RefusedError(Exception):
    """What was asked for can't be had: onnxruntime does not run it, or it does not fit the value."""


class Draft(Net):
    """A net under construction with the array of every value at the nominal sizes.

    Args:
        seed: of all choices and weights.
        opset: version of the default domain.
        dtype: float type of inputs and weights.
        ir_version: of the file; None takes the oldest that the opset allows.
    """

    def __init__(
        self, seed: int, opset: int, dtype: npt.DTypeLike = np.float32, ir_version: int | None = None
    ) -> None:
        super().__init__(opset, dtype, seed=seed, ir_version=ir_version)
        self.dice = random.Random(seed)
        self.arrays: dict[str, Array] = {}
        self.constants: set[str] = set()
        self.open: dict[str, int] = {}
        self.nested = False

    # -------------------------------------------------- choices

    def chance(self, part: float) -> bool:
        """True in this part of the cases."""
        return self.dice.random() < part

    def pick(self, *among: T) -> T:
        """One of the values."""
        return self.dice.choice(among)

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high."""
        return self.dice.randint(low, high)

    # -------------------------------------------------- values

    def shape(self, value: str) -> tuple[int, ...]:
        """The nominal shape of a value."""
        return self.arrays[value].shape

    def rank(self, value: str) -> int:
        """The rank of a value."""
        return self.arrays[value].ndim

    def spatial(self, value: str) -> tuple[int, ...]:
        """The spatial sizes of a map; refused where the value is none."""
        self.need(self.rank(value) >= 3)
        return self.shape(value)[2:]

    def need(self, holds: bool) -> None:
        """Refuses what does not hold."""
        if not holds:
            raise RefusedError

    def feed(self, name: str, shape: Sequence[int | str | None], sizes: Sequence[int]) -> str:
        """A graph input with an array of its nominal sizes."""
        self.input(shape, name)
        self._know(name, self.normal(*sizes).astype(self.dtype))
        self.open.update({dim: size for dim, size in zip(shape, sizes, strict=True) if isinstance(dim, str)})
        return name

    def const(self, array: npt.ArrayLike, name: str | None = None, *, overridable: bool = False) -> str:
        """An initializer, known as a constant."""
        made = super().const(array, name, overridable=overridable)
        self._know(made, self._cast(array))
        self.constants.add(made)
        return made

    def held(self, array: npt.ArrayLike) -> str:
        """A constant in any form that files have: an initializer, overridable or not, or a Constant."""
        form = self.dice.random()
        if form < 0.15:
            return self.constant_node(array)
        if form < 0.2 and self.ir_version >= 4 and not self.nested:
            return self.const(array, overridable=True)
        if form < 0.25:
            return self.op("Identity", self.const(array))
        return self.const(array)

    def scales(self, *factors: float) -> str:
        """Scales of a Resize."""
        made = super().scales(*factors)
        self._know(made, np.array(factors, np.float32))
        self.constants.add(made)
        return made

    def _know(self, name: str, array: Array) -> None:
        self.arrays[name] = array
        if array.ndim > 1:
            self.channels[name] = array.shape[1]

    # -------------------------------------------------- operators

    def op(
        self,
        kind: str,
        *inputs: str,
        outputs: int = 1,
        name: str | None = None,
        domain: str = "",
        channels: int | None = None,
        **attrs: Any,
    ) -> str:
        """An operator, which is run; refused where onnxruntime does not run it or its output is useless."""
        first = super().op(kind, *inputs, outputs=outputs, name=name, domain=domain, **attrs)
        node = self.nodes[-1]
        if self.chance(0.02):
            node.ClearField("name")
        arrays = _one(node, {name: self.arrays[name] for name in inputs if name}, self.opset)
        for output, array in zip(node.output, arrays, strict=True):
            self.need(array.size <= LARGEST)
            if array.dtype.kind == "f":
                self.need(bool(np.isfinite(array).all()) and np.abs(array).max(initial=0.0) < BOUNDED)
            self._know(output, array)
        if not inputs or all(name in self.constants for name in inputs):
            self.constants.update(node.output)
        return first

    def inside(self, number: int) -> Draft:
        """A draft for a body: it reads the values of this one."""
        inner = Draft(self.between(0, 1 << 30), self.opset, self.dtype)
        inner.arrays.update(self.arrays)
        inner.channels.update(self.channels)
        inner.constants |= self.constants
        inner._first = 100 * number + self._first
        inner.nested = True
        return inner

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Takes back what was added within where any of it is refused."""
        lists: tuple[list[Any], ...] = (self.nodes, self.initializers, self.inputs, self.overridable)
        marks = [len(each) for each in lists]
        try:
            yield
        except RefusedError:
            for each, mark in zip(lists, marks, strict=True):
                del each[mark:]

    # -------------------------------------------------- the model

    def finished(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The model; types of its outputs are inferred, ranks at the least are those that were seen."""
        inputs = list(self.inputs)
        for tensor in self.initializers:
            if self.ir_version < 4 or tensor.name in self.overridable:
                inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        infos = [info(name, [None] * self.rank(name), self.arrays[name].dtype) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)
        helper.set_model_props(model, {NOMINAL: " ".join(f"{dim}={size}" for dim, size in self.open.items())})
        return model


def _one(node: onnx.NodeProto, arrays: dict[str, Array], opset: int) -> list[Array]:
    """The outputs of one operator; what it captures is fed too."""
    feeds = {name: arrays[name] for name in dict.fromkeys(node.input) if name}
    infos = [info(name, array.shape, array.dtype) for name, array in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", infos, outputs)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        return list(session(proto).run(None, feeds))
    except Exception as error:  # whatever onnxruntime raises
        raise RefusedError from error


def tensor(array: npt.ArrayLike) -> TensorProto:
    """An array as an attribute."""
    return numpy_helper.from_array(np.asarray(array))
