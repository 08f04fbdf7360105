"""The graphs of a model, and orders in which everything comes after what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from typing import TypeVar

import onnx_ir as ir

from graphopt.errors import InputError

_Node = TypeVar("_Node")


def post_order(
    start: _Node, parents: Callable[[_Node], Iterable[_Node]], done: Container[_Node]
) -> Iterator[_Node]:
    """What `start` depends on, then `start`, each after its parents; without recursion.

    The caller adds what it was given to `done` before it asks for the next. In a cycle, some element comes
    before one of its parents.

    Args:
        start: where to begin.
        parents: what an element depends on.
        done: elements that were handed out before; they are left out.

    Returns:
        The elements, one by one.
    """
    stack = [(start, False)]
    opened = set()
    while stack:
        item, ready = stack.pop()
        if item in done:
            continue
        if ready:
            yield item
        elif item not in opened:
            opened.add(item)
            stack.append((item, True))
            stack.extend((parent, False) for parent in parents(item) if parent not in done)


def topological(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of a graph, each after those that it needs, also through its subgraphs; else in file order.

    Raises:
        InputError: the graph has a cycle.
    """
    done: set[ir.Node] = set()
    order: list[ir.Node] = []
    parents = partial(producers, graph=graph)
    for start in graph:
        for node in post_order(start, parents, done):
            if any(parent not in done for parent in parents(node)):
                raise InputError(
                    f"{label(node)}: the node needs its own output; the graph has a cycle, mend the model"
                )
            done.add(node)
            order.append(node)
    return order


def is_sorted(graph: ir.Graph) -> bool:
    """Whether every node comes after those of the graph that it needs, also through its subgraphs."""
    done: set[ir.Node] = set()
    for node in graph:
        if any(producer not in done for producer in producers(node, graph)):
            return False
        done.add(node)
    return True


def producers(node: ir.Node, graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes of the graph that the node needs, each once and in order, also through its subgraphs."""
    found = (value.producer() for value in reads(node))
    return {producer: None for producer in found if producer is not None and producer.graph is graph}


def label(node: ir.Node) -> str:
    """What a message calls a node."""
    return node.name or f"{node.op_type}:{node.outputs[0].name if node.outputs else ''}"


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs among a node's attributes, each with its place: ``then_branch``, or ``bodies[1]``."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for index, graph in enumerate(attribute.as_graphs()):
                yield f"{attribute.name}[{index}]", graph


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes."""
    return (graph for _, graph in bodies(node))


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Every graph of the model: the main one, the functions' bodies, and the subgraphs of both."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        yield from nested(graph)


def nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph, then those within it; `Graph.subgraphs` fails at an attribute that a function passes on."""
    yield graph
    for node in graph:
        for body in subgraphs(node):
            yield from nested(body)


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads, also inside its subgraphs."""
    yield from (value for value in node.inputs if value is not None)
    for body in subgraphs(node):
        for inner in body:
            yield from reads(inner)
        yield from body.outputs
