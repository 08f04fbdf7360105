"""Model-local functions: the body of each in the place of its calls, or the reason why not.

What `onnx_ir` and `onnx` bring for this is not used: `onnx_ir.passes.common.InlinePass` gives values the
names of others that come later in a body (onnxruntime refuses such a model), and nodes names that do not tell
their call; `onnx.inliner` leaves out default values of attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import onnx
import onnx.defs
import onnx_ir as ir

from graphopt.model.names import Fresh
from graphopt.model.traversal import graphs, label, nested, subgraphs
from graphopt.model.validation.operators import plain_domain, runtime_operators

Called: TypeAlias = ir.OperatorIdentifier
"""Domain, name and overload of a function, as a call has them."""


@dataclass(frozen=True)
class Inlined:
    """A model without the calls that could be replaced.

    Attributes:
        model: the model; the same that was given where no call was replaced.
        left: why calls of the others are left, by function.
    """

    model: ir.Model
    left: Mapping[Called, str] = field(default_factory=dict)


def inlined(model: ir.Model) -> Inlined:
    """Puts the bodies of functions in the place of their calls.

    A node of a body is called ``call/node``. Constants of a function become initializers that all its calls
    share. Functions that nothing calls any more are dropped; one that was never called stays.

    Args:
        model: the model, which `model.validation.validate` accepted; it is not changed.

    Returns:
        A changed copy, and what is left with its reason.
    """
    direct = set(_calls(nested(model.graph), model))
    if not direct:
        return Inlined(model)
    left = {name: reason for name in model.functions if (reason := _obstacle(model, name))}
    for graph in graphs(model):
        for node in graph:
            name = node.op_identifier()
            function = model.functions.get(name)
            if function is not None and name not in left and (reason := _odd_call(node, function)):
                left[name] = reason
    if direct <= left.keys():
        return Inlined(model, _reached(model, left))
    clone = model.clone()
    inliner = _Inliner(clone, left)
    inliner.expand(clone.graph)
    needed = {*called(clone), *_closure(clone, model.functions.keys() - called(model))}
    for name in list(clone.functions):
        if name not in needed:
            del clone.functions[name]
    return Inlined(clone, _reached(clone, left))


def called(model: ir.Model) -> list[Called]:
    """The functions that a model calls, also those that others call for it."""
    return sorted(_closure(model, _calls(nested(model.graph), model)))


def _reached(model: ir.Model, left: Mapping[Called, str]) -> dict[Called, str]:
    """The reasons of the functions that are still called."""
    return {name: left[name] for name in called(model) if name in left}


def _calls(bodies: Iterable[ir.Graph], model: ir.Model) -> Iterator[Called]:
    """The functions that graphs call."""
    for graph in bodies:
        yield from (name for node in graph if (name := node.op_identifier()) in model.functions)


def _closure(model: ir.Model, names: Iterable[Called]) -> set[Called]:
    """Functions, and those that they call, also by others."""
    found, pending = set[Called](), list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += _calls(nested(model.functions[name].graph), model)
    return found


# ---------------------------------------------------------------- what has to stay


def _obstacle(model: ir.Model, name: Called) -> str:
    """Why the calls of a function have to stay; "" where they don't."""
    function = model.functions[name]
    if (plain_domain(name[0]), name[1]) in runtime_operators():
        return "onnxruntime has an operator of this name, and runs that"
    for node in (node for graph in nested(function.graph) for node in graph):
        domain = plain_domain(node.domain)
        ours = _version(model.opset_imports, domain)
        theirs = _version(function.opset_imports, domain)
        if ours is None:  # in which version onnxruntime runs them then is its own choice
            return f"the model does not import the operators of {domain or 'ai.onnx'}, of which it is made"
        if node.op_identifier() in model.functions:
            continue
        if theirs is not None and not _alike(domain, node.op_type, ours, theirs):
            return f"{node.op_type} is another operator in its opset {theirs} than in the model's {ours}"
        if any(a.is_ref() and a.type in _GRAPHS for a in node.attributes.values()):
            return "it takes graphs as attributes"
    return ""


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _version(imports: Mapping[str, int], domain: str) -> int | None:
    return imports.get(domain, imports.get("ai.onnx") if domain == "" else None)


@lru_cache(maxsize=1024)
def _alike(domain: str, op_type: str, first: int, second: int) -> bool:
    """Whether an operator computes the same in two versions of its operator set.

    It does where the later one takes other types at most: the same inputs, outputs and attributes, with the
    same default values.
    """
    if first == second:
        return True
    try:
        forms = [onnx.defs.get_schema(op_type, version, domain) for version in (first, second)]
    except onnx.defs.SchemaError:
        return False
    one, other = (
        (
            [(port.option, port.is_homogeneous) for port in (*schema.inputs, *schema.outputs)],
            {name: (a.type, a.default_value.SerializeToString()) for name, a in schema.attributes.items()},
            schema.deprecated,
        )
        for schema in forms
    )
    return one == other


def _odd_call(node: ir.Node, function: ir.Function) -> str:
    """What keeps a call from being replaced; "" where nothing does."""
    if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
        return f"call {label(node)} has more inputs or outputs than it"
    return ""


# ---------------------------------------------------------------- what takes the place of a call


class _Inliner:
    """One pass over a model that the caller owns."""

    def __init__(self, model: ir.Model, left: Mapping[Called, str]) -> None:
        self._model = model
        self._left = left
        self._fresh = Fresh(graphs(model))
        self._constants: dict[ir.Value, ir.Value] = {}

    def expand(self, graph: ir.Graph) -> None:
        """Replaces the calls in a graph and in the bodies of its nodes, those in bodies of functions too."""
        pending = list(reversed(list(graph)))
        while pending:
            node = pending.pop()
            name = node.op_identifier()
            if name in self._model.functions and name not in self._left:
                pending += reversed(self._replace(graph, node, self._model.functions[name]))
            else:
                for body in subgraphs(node):
                    self.expand(body)

    def _replace(self, graph: ir.Graph, call: ir.Node, function: ir.Function) -> Sequence[ir.Node]:
        """Puts a function's body in the place of a call; the nodes that it is made of."""
        body = function.graph.clone()
        self._share_constants(function, body)
        prefix = label(call)
        self._adapt(body, prefix, {**_defaults(function), **call.attributes}, call)
        read = [*call.inputs, *[None] * (len(function.inputs) - len(call.inputs))]
        for parameter, value in zip(body.inputs, read, strict=True):
            for usage in list(parameter.uses()):
                usage.node.replace_input_with(usage.idx, value)
        made = list(zip(call.outputs, body.outputs, strict=False))
        parameters = dict(zip(body.inputs, read, strict=True))
        nodes = list(body)
        body.outputs.clear()
        body.inputs.clear()
        body.remove(nodes)
        taken = set[ir.Value]()
        for old, new in made:
            source = parameters.get(new, new)
            if source is None or not old.name:
                continue
            if source is not new or new in taken:
                copy = ir.node("Identity", [source], name=self._fresh(f"{prefix}/Identity"))
                nodes.append(copy)
                new = copy.outputs[0]
            taken.add(new)
            _take_over(old, new)
        graph.insert_before(call, nodes)
        graph.remove(call, safe=True)
        return nodes

    def _share_constants(self, function: ir.Function, body: ir.Graph) -> None:
        """Lets the copy of a body read initializers where the function has Constant nodes."""
        for original, node in zip(list(function.graph), list(body), strict=True):
            constant_node = node.op_type == "Constant" and plain_domain(node.domain) == ""
            held = node.attributes.get("value") if constant_node else None
            if held is None or held.is_ref() or node.outputs[0].is_graph_output():
                continue
            value, constant = original.outputs[0], self._constants.get(original.outputs[0])
            if constant is None:
                tensor = held.as_tensor()
                name = self._fresh(f"{function.name}/{value.name}")
                type_ = ir.TensorType(tensor.dtype)
                shape = ir.Shape(tensor.shape.numpy())
                constant = ir.Value(name=name, type=type_, shape=shape, const_value=tensor)
                self._model.graph.register_initializer(constant)
                self._constants[value] = constant
            node.outputs[0].replace_all_uses_with(constant)
            body.remove(node, safe=True)

    def _adapt(self, body: ir.Graph, prefix: str, given: Mapping[str, ir.Attr], call: ir.Node) -> None:
        """Gives the nodes and values of a body names of their own, and its attributes the call's values."""
        for graph in nested(body):
            if graph is not body:
                for value in (*graph.inputs, *graph.initializers.values()):
                    value.name = self._fresh(f"{prefix}/{value.name}")
            for node in graph:
                node.name = self._fresh(f"{prefix}/{node.name or node.op_type}")
                for key, text in call.metadata_props.items():
                    node.metadata_props.setdefault(key, text)
                for value in node.outputs:
                    if value.name:
                        value.name = self._fresh(f"{prefix}/{value.name}")
                    if not value.is_graph_output():
                        value.type = value.shape = None  # said of all calls at once
                for name, attribute in list(node.attributes.items()):
                    if attribute.is_ref():
                        del node.attributes[name]
                        passed = given.get(attribute.ref_attr_name or "")
                        if passed is not None:
                            node.attributes[name] = ir.Attr(name, passed.type, passed.value)


def _defaults(function: ir.Function) -> dict[str, ir.Attr]:
    """The values of a function's attributes for calls that give none."""
    return {name: each for name, each in function.attributes.items() if each.value is not None}


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Lets a value of a body stand for the output of a call, under its name."""
    name, old.name = old.name, None
    new.name = name
    new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
    new.metadata_props.update(old.metadata_props)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
