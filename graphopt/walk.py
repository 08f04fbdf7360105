"""Runs a model piece by piece, in order, over many inputs, and keeps only what is read later.

So statistics of every layer of a network that changes on the way cost two passes over the inputs in all,
not two passes a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt import runtime
from graphopt.model.serde import new_proto
from graphopt.runtime import Feeds, Structure
from graphopt.store import Store
from graphopt.types import Replacement


class Program:
    """The operators of a model's outermost graph in order, and pieces of it as models of their own."""

    def __init__(self, model: ir.Model) -> None:
        parts = runtime.structure(model)
        self.nodes: list[onnx.NodeProto] = list(parts.proto.graph.node)
        self.outputs = [output.name for output in parts.proto.graph.output]
        self._reads = [_reads(node) for node in self.nodes]
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
        """Some operators as a model.

        Args:
            nodes: the operators, in order.
            inputs: type of each value that is fed.
            outputs: the values to return.
            constants: weights besides the model's own.
        """
        read = set(outputs).union(*(_reads(node) for node in nodes))
        initializers = [
            tensor for name, tensor in self._inline.items() if name in read and name not in inputs
        ]
        made, extra = runtime.tensors({n: array for n, array in (constants or {}).items() if n in read})
        weights = {
            name: array for name, array in self._weights.items() if name in read and name not in inputs
        }
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(kind) for name, kind in inputs.items()}
        graph = onnx.helper.make_graph(
            nodes,
            "piece",
            [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
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


def _reads(node: onnx.NodeProto) -> frozenset[str]:
    """The values that a node reads from the graph around it."""
    found = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            if not body.node:
                continue
            inside = {v.name for v in body.input} | {t.name for t in body.initializer}
            inside |= {name for inner in body.node for name in inner.output}
            captured = set().union(*(_reads(inner) for inner in body.node))
            found |= (captured | {v.name for v in body.output}) - inside
    return frozenset(found)


class Walk:
    """The inputs on their way through a program, up to some operator.

    Args:
        program: the operators.
        batches: the inputs; every value is held batch by batch.
        store: holds what is read later.
        beside: another walk over the same inputs, of the original network; what is equal there is read from
        it.
    """

    def __init__(
        self, program: Program, batches: Sequence[Feeds], store: Store, beside: Walk | None = None
    ) -> None:
        self._program = program
        self._store = store
        self._beside = beside
        self._count = len(batches)
        self._fed = {} if beside is not None else {name: [b[name] for b in batches] for name in batches[0]}
        self.place = 0
        """The first operator that was not run yet."""

    def differs(self, name: str) -> bool:
        """Whether a value is not that of the walk beside this one."""
        return name in self._store

    def values(self, name: str) -> list[npt.NDArray[Any]]:
        """The content of a value for each batch; it is there when an operator still to come reads it."""
        if name in self._store:
            return self._store[name]
        if self._beside is not None:
            return self._beside.values(name)
        return self._fed[name]

    def holds(self, name: str) -> bool:
        """Whether a value is at hand."""
        if name in self._store or name in self._fed:
            return True
        return self._beside is not None and self._beside.holds(name)

    def advance(self, stop: int, keep: Iterable[str] = ()) -> None:
        """Runs the operators before ``stop``; nothing is dropped before `forget` is called.

        Args:
            stop: the place of the first operator not to be run.
            keep: values to hold besides those that operators from ``stop`` on read.
        """
        every = range(self.place, stop)
        places = every if self._beside is None else self._differing(every)
        self._run([self._program.nodes[i] for i in places], {}, stop, keep)
        self.place = stop

    def _differing(self, places: Sequence[int]) -> list[int]:
        """The operators that read what is not the same in the walk beside, and those of the piece they need.

        The walk beside keeps no value that only operators of the piece read; such values are made once more.
        """
        found, changed = set(), set(self._store)
        for place in places:
            if not changed.isdisjoint(self._program.reads(place)):
                found.add(place)
                changed.update(self._program.nodes[place].output)
        needed = {name for place in found for name in self._program.reads(place)}
        for place in reversed(places):
            outputs = self._program.nodes[place].output
            if place not in found and any(name in needed and not self.holds(name) for name in outputs):
                found.add(place)
                needed.update(self._program.reads(place))
        return sorted(found)

    def replace(self, index: int, replacement: Replacement, keep: Iterable[str] = ()) -> None:
        """Runs what takes the place of the operator that comes next."""
        assert index == self.place
        prefix = f"{self._program.nodes[index].output[0]}/refit/"
        local = {*replacement.constants, *(name for node in replacement.nodes for name in node.outputs)}
        finals = {new: old for old, new in replacement.outputs.items()}

        def renamed(name: str | None) -> str:
            if name is None:
                return ""
            return finals.get(name) or (f"{prefix}{name}" if name in local else name)

        nodes = [new_proto(node, renamed) for node in replacement.nodes]
        constants = {renamed(name): array for name, array in replacement.constants.items()}
        self._run(nodes, constants, index + 1, keep)
        self.place = index + 1

    def _run(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, npt.NDArray[Any]],
        stop: int,
        keep: Iterable[str],
    ) -> None:
        if not nodes:
            return
        kept = set(keep)
        made = list(dict.fromkeys(name for node in nodes for name in node.output if name))
        outputs = [name for name in made if self._program.last_use(name) >= stop or name in kept]
        if not outputs:
            return
        known = set(made) | set(constants)
        read = dict.fromkeys(name for node in nodes for name in sorted(_reads(node)) if name not in known)
        given = [name for name in read if self.holds(name)]
        kinds = {name: self.values(name)[0].dtype for name in given}
        running = runtime.session(self._program.piece(nodes, kinds, outputs, constants), optimised=True)
        for number in range(self._count):
            feeds = {name: self.values(name)[number] for name in given}
            for name, value in zip(outputs, runtime.run(running, feeds, outputs), strict=True):
                self._store.add(name, value)

    def forget(self, keep: Iterable[str] = ()) -> None:
        """Drops what no operator still to come reads."""
        kept = set(keep)
        for name in [n for n in self._store if self._program.last_use(n) < self.place and n not in kept]:
            self._store.drop(name)
