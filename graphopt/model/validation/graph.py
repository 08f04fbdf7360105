"""What onnxruntime would refuse of a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import onnx
import onnx.defs
import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.files import show
from graphopt.model.traversal import label, producers, subgraphs
from graphopt.model.validation.operators import plain_domain, runtime_operators, signature_of
from graphopt.model.validation.weights import WEIGHT_CHECKS, data_problem


def validate(model: ir.Model, path: Path | None) -> None:
    """Refuse a model that onnxruntime would refuse, as far as the graph and the operators' signatures tell.

    Custom domains are opaque. Nodes out of topological order are no error, since onnxruntime sorts them; a
    cycle is. Linear in the number of nodes; reads no weights.

    Args:
        model: the model; not changed.
        path: its file, for the messages; None when it has none.

    Raises:
        InputError: a value that nothing defines, or that is defined twice; a cycle; an output that nothing
            produces; an unknown operator or opset; a wrong number of inputs or outputs; an attribute that is
            unknown, missing or of the wrong kind; an initializer whose data doesn't fit its dims; a weight
            that doesn't fit its Conv, ConvTranspose or Gemm.
    """
    where = "the model" if path is None else show(path)
    _Validator(model, where).run()


MOST_OPERATORS = 50_000
"""Operators that a model may have once its functions are put in place. Derived: onnxruntime
takes 12 seconds to put so many in place, and 80 for three times as many (functions of 15 and 20 calls, four
deep, on two shared cores): beyond, loading a model has no end that anybody waits for."""
DEEPEST_CALL = 100
"""Functions that may call each other in a row: derived, protobuf reads no graph that is deeper in others."""


class _Validator:
    """One walk over a model. Values are told apart by identity, as names repeat between branches."""

    def __init__(self, model: ir.Model, where: str) -> None:
        self.model = model
        self.where = where
        self.imports: Mapping[str, int] = {}
        self.declared: set[ir.Value] = set()  # by the graph at hand and those around it, in any order
        self.seen: set[ir.Value] = set()  # of these, the ones that the walk has passed
        self.names: set[str] = set()  # of the values in `seen`
        self.unsorted: dict[ir.Graph, None] = {}  # a dict keeps the order, so that messages repeat

    def fail(self, message: str) -> NoReturn:
        raise InputError(f"{self.where}: {message}")

    def run(self) -> None:
        self.imports = self.model.opset_imports
        self._check_versions()
        if not self.model.graph.outputs:
            self.fail("it has no outputs, so that nothing it computes can be seen; declare some")
        self._check_graph(self.model.graph)
        self._check_calls()
        for function in self.model.functions.values():
            self.imports = {**self.model.opset_imports, **function.opset_imports}
            self._check_graph(function.graph)
        for graph in self.unsorted:
            self._check_acyclic(graph)

    def _check_calls(self) -> None:
        """Functions that call functions: onnxruntime puts the body of each in the place of each call."""
        known: dict[ir.OperatorIdentifier, tuple[int, int]] = {}
        begun: list[ir.OperatorIdentifier] = []

        def expanded(graph: ir.Graph | ir.Function) -> tuple[int, int]:
            """The operators of a graph when no call is left, and how many functions call each other in it."""
            total, depth = 0, 0
            for node in graph:
                called = node.op_identifier()
                parts = [expanded(body) for body in subgraphs(node)]
                parts.append(body_of(called) if called in self.model.functions else (1, 0))
                total += sum(operators for operators, _ in parts)
                depth = max(depth, *(calls for _, calls in parts))
            return total, depth

        def body_of(called: ir.OperatorIdentifier) -> tuple[int, int]:
            if called in begun:
                self.fail(f"function {called[1]!r} calls itself; onnxruntime can't run that")
            if called not in known and len(begun) <= DEEPEST_CALL:
                begun.append(called)
                operators, calls = expanded(self.model.functions[called])
                known[called] = operators, calls + 1
                begun.pop()
            if len(begun) + known.get(called, (0, 1))[1] > DEEPEST_CALL + 1:
                self.fail(f"function {called[1]!r} is one of more than {DEEPEST_CALL} that call each other")
            return known[called]

        total, _ = expanded(self.model.graph) if self.model.functions else (0, 0)
        if total > MOST_OPERATORS:
            self.fail(
                f"its functions call each other until it has {total:,} operators; {MOST_OPERATORS:,} do"
            )

    def _check_versions(self) -> None:
        if not self.imports:
            self.fail("imports no opset; every model must, so it was cut short or badly exported")
        newest = onnx.defs.onnx_opset_version()
        for domain, version in self.imports.items():
            if version < 1:
                self.fail(f"imports version {version} of domain {domain!r}; the first is 1")
            if plain_domain(domain) == "" and version > newest:
                self.fail(
                    f"uses opset {version}, and onnx {onnx.__version__} knows up to {newest}; upgrade onnx"
                )

    def _check_graph(self, graph: ir.Graph) -> None:
        own: set[ir.Value] = set()
        for value in graph.inputs:
            if value in own:
                self.fail(f"graph {graph.name!r} lists its input {value.name!r} twice")
            own.add(value)
        own.update(graph.initializers.values())
        entering = list(own)
        for node in graph:
            own.update(node.outputs)
        self.declared |= own
        self.seen.update(entering)
        added = {value.name for value in entering if value.name and value.name not in self.names}
        self.names |= added
        for value in graph.initializers.values():
            self._check_initializer(value)
        for node in graph:
            self._check_node(node, added)
        for output in graph.outputs:
            if output not in own:
                self.fail(f"nothing in graph {graph.name!r} produces its output {output.name!r}")
        self.declared -= own
        self.seen -= own
        self.names -= added

    def _check_node(self, node: ir.Node, added: set[str]) -> None:
        for value in node.inputs:
            if value is not None and value not in self.seen:
                self._check_late(node, value)
        for body in subgraphs(node):
            self._check_graph(body)
        for attribute in node.attributes.values():
            self._check_attribute(node, attribute)
        self._check_operator(node)
        for value in node.outputs:
            self.seen.add(value)
            if not value.name:
                continue
            if value.name in self.names:
                self.fail(f"value {value.name!r}, an output of node {label(node)!r}, is defined twice")
            self.names.add(value.name)
            added.add(value.name)
        if node.domain == "" and node.op_type in WEIGHT_CHECKS and len(node.inputs) > 1:
            problem = WEIGHT_CHECKS[node.op_type](node)
            if problem:
                self.fail(f"node {label(node)!r}: {problem}")

    def _check_late(self, node: ir.Node, value: ir.Value) -> None:
        if value not in self.declared:
            reader = f"node {label(node)!r} reads value {value.name!r}"
            self.fail(f"{reader}, which no node, input or initializer defines")
        producer = value.producer()
        if producer is not None and producer.graph is not None:
            self.unsorted[producer.graph] = None

    def _check_attribute(self, node: ir.Node, attribute: ir.Attr) -> None:
        if attribute.is_ref() or attribute.value is None:
            return
        if attribute.type is ir.AttributeType.TENSOR:
            problem = data_problem(attribute.as_tensor())
            if problem:
                self.fail(f"node {label(node)!r}: attribute {attribute.name!r} {problem}")

    def _check_initializer(self, value: ir.Value) -> None:
        if value.const_value is None:
            self.fail(f"initializer {value.name!r} has no data")
        problem = data_problem(value.const_value)
        if problem:
            self.fail(f"initializer {value.name!r} {problem}; the file is damaged")

    def _check_operator(self, node: ir.Node) -> None:
        domain = plain_domain(node.domain)
        version = self.imports.get(domain, self.imports.get("ai.onnx") if domain == "" else None)
        if version is None:
            self.fail(f"node {label(node)!r} is of domain {domain!r}, for which the model imports no opset")
        if node.op_identifier() in self.model.functions:
            return
        if domain and not domain.startswith("ai.onnx"):
            return
        signature = signature_of(domain, node.op_type, version)
        if signature is None:
            if runtime_operators().get((domain, node.op_type), version + 1) <= version:
                return
            self.fail(
                f"node {label(node)!r}: no operator {node.op_type!r} in opset {version} of domain {domain!r}"
            )
        problem = signature.problem(node)
        if problem:
            self.fail(f"node {label(node)!r} ({node.op_type}): {problem}")

    def _check_acyclic(self, graph: ir.Graph) -> None:
        needs = {node: producers(node, graph) for node in graph}
        users: dict[ir.Node, list[ir.Node]] = {node: [] for node in graph}
        missing = {node: len(needed) for node, needed in needs.items()}
        for node, needed in needs.items():
            for producer in needed:
                users[producer].append(node)
        ready = [node for node, count in missing.items() if count == 0]
        while ready:
            for user in users[ready.pop()]:
                missing[user] -= 1
                if missing[user] == 0:
                    ready.append(user)
        stuck = {node for node, count in missing.items() if count > 0}
        if stuck:
            cycle = _cycle(next(node for node in graph if node in stuck), needs, stuck)
            names = [repr(label(node)) for node in cycle]
            shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
            self.fail(f"graph {graph.name!r} is cyclic: {' → '.join([*shown, names[0]])}")


def _cycle(
    node: ir.Node, needs: Mapping[ir.Node, Mapping[ir.Node, None]], stuck: set[ir.Node]
) -> list[ir.Node]:
    """A cycle, producers first, found by following from a stuck node what it waits for."""
    trail: dict[ir.Node, int] = {}
    while node not in trail:
        trail[node] = len(trail)
        node = next(producer for producer in needs[node] if producer in stuck)
    return list(trail)[trail[node] :][::-1]
