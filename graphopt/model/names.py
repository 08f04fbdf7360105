"""What graphs and nodes are called: by their own names where those are unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from graphopt.model.traversal import bodies
from graphopt.types import MAIN_GRAPH


def graph_paths(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """The model's graphs, outer before inner, with their paths: ``main``, then ``owner/attribute``."""
    names = node_names(model)
    yield MAIN_GRAPH, model.graph
    for node in names:
        for attribute, graph in bodies(node):
            yield f"{names[node]}/{attribute}", graph


def node_names(model: ir.Model) -> dict[ir.Node, str]:
    """The name of every node, in the order of the model.

    A node without a unique name is called ``<op>:<first output>``; in a subgraph that is prefixed by
    ``<owner>/<attribute>/``.
    """
    times = Counter(node.name for node in model.graph.all_nodes() if node.name)
    names: dict[ir.Node, str] = {}

    def walk(graph: ir.Graph, prefix: str) -> None:
        for node in graph:
            output = next((value.name for value in node.outputs if value.name), "")
            unique = node.name is not None and times[node.name] == 1
            name = f"{node.name}" if unique else f"{prefix}{node.op_type}:{output}"
            names[node] = name
            for attribute, body in bodies(node):
                walk(body, f"{name}/{attribute}/")

    walk(model.graph, "")
    return names


class Fresh:
    """Names that no value and no node has.

    Args:
        graphs: those whose names are taken.
        taken: other names that are.
    """

    def __init__(self, graphs: Iterable[ir.Graph], taken: Iterable[str] = ()) -> None:
        self._taken: set[str | None] = set(taken)
        for graph in graphs:
            values = (
                *graph.inputs,
                *graph.initializers.values(),
                *(v for node in graph for v in node.outputs),
            )
            self._taken.update(value.name for value in values)
            self._taken.update(node.name for node in graph)

    def __call__(self, wanted: str) -> str:
        """A name like the wanted one that nothing has had so far."""
        name, number = wanted, 1
        while name in self._taken:
            name, number = f"{wanted}_{number}", number + 1
        self._taken.add(name)
        return name
