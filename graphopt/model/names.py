"""What graphs and nodes are called: by their own names where those are unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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
