"""What several rewrites ask of a graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Analysis
from graphopt.conv import Linear
from graphopt.core import Site


def site(analysis: Analysis, nodes: Sequence[ir.Node]) -> Site:
    """The site of these nodes, anchor first."""
    return Site(analysis.graph_of(nodes[0]), tuple(analysis.name(node) for node in nodes))


def is_passthrough(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the node hands on its first input unchanged: Identity, or Dropout in inference mode."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type != "Dropout" or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = analysis.constant(node.inputs[2])
    return training is not None and not np.any(training)


def linear_before(analysis: Analysis, value: ir.Value) -> tuple[Linear | None, list[ir.Node]]:
    """The linear operator that makes a value, and the nodes in between that hand it on unchanged."""
    between: list[ir.Node] = []
    producer = value.producer()
    while producer is not None and is_passthrough(analysis, producer):
        between.append(producer)
        source = producer.inputs[0]
        producer = source.producer() if source is not None else None
    return analysis.linear(producer), between
