"""A model as a list of operators that can be run piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.runtime import session
from graphopt.runtime.session import Structure


class Program:
    """The operators of a model's outermost graph in order, and pieces of it as models of their own."""

    def __init__(self, model: ir.Model) -> None:
        parts = session.structure(model)
        self.nodes: list[onnx.NodeProto] = list(parts.proto.graph.node)
        self.outputs = [output.name for output in parts.proto.graph.output]
        self._reads = [reads(node) for node in self.nodes]
        self._weights = dict(parts.weights)
        self._inline = {tensor.name: tensor for tensor in parts.proto.graph.initializer}
        self._proto = parts.proto
        self._last: dict[str, int] = {}
        for index, names in enumerate(self._reads):
            self._last.update(dict.fromkeys(names, index))
        self.index = {node: i for i, node in enumerate(model.graph)}
        """The place of each operator."""

    def reads(self, index: int) -> frozenset[str]:
        """The values that an operator reads, those that its bodies capture among them."""
        return self._reads[index]

    def last_use(self, name: str) -> int:
        """The place of the last operator that reads a value; -1 when none does."""
        return self._last.get(name, -1)

    def piece(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Mapping[str, np.dtype[Any]],
        outputs: Sequence[str],
        constants: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Structure:
        """Some of the operators as a model of their own.

        Args:
            nodes: the operators, in order.
            inputs: type of each value that is fed.
            outputs: the values to return.
            constants: weights besides the model's own.

        Returns:
            The operators as a model that a session can be made of.
        """
        read = set(outputs).union(*(reads(node) for node in nodes))
        initializers = [
            tensor for name, tensor in self._inline.items() if name in read and name not in inputs
        ]
        made, extra = session.tensors({n: array for n, array in (constants or {}).items() if n in read})
        weights = {
            name: array for name, array in self._weights.items() if name in read and name not in inputs
        }
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(kind) for name, kind in inputs.items()}
        fed = {name: onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()}
        optional = (value for value in self._proto.graph.input if value.type.HasField("optional_type"))
        fed.update((value.name, value) for value in optional if value.name in fed)
        graph = onnx.helper.make_graph(
            nodes,
            "piece",
            list(fed.values()),
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [*initializers, *made],
        )
        proto = onnx.helper.make_model(
            graph,
            opset_imports=self._proto.opset_import,
            functions=self._proto.functions,
            ir_version=max(self._proto.ir_version, 4),
        )
        return Structure(proto, {**weights, **extra})


def reads(node: onnx.NodeProto) -> frozenset[str]:
    """The values that a node reads from the graph around it."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            if not body.node:
                continue
            inside = {v.name for v in body.input} | {t.name for t in body.initializer}
            inside |= {name for inner in body.node for name in inner.output}
            captured = set().union(*(reads(inner) for inner in body.node))
            found |= (captured | {v.name for v in body.output}) - inside
    return frozenset(found)
