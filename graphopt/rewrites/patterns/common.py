"""What several rewrites ask of a graph."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attributes import batch_statistics
from graphopt.analysis.groups import Groups
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.types import AttributeValue, Candidate, Cost, Rejection, Site

DISPUTED = "onnxruntime infers other sizes than it makes"
"""What is wrong with a value that is `Analysis.disputed`, where its size is needed."""

UNKNOWN = "its sizes are unknown"
"""Why the cost of a site can't be told."""


def site(analysis: Analysis, nodes: Sequence[ir.Node]) -> Site:
    """The site of these nodes, anchor first."""
    return Site(analysis.graph_of(nodes[0]), tuple(analysis.name(node) for node in nodes))


def propose(
    name: str, analysis: Analysis, nodes: Sequence[ir.Node], subject: str, found: str | tuple[Cost, Cost]
) -> Candidate | Rejection:
    """A candidate for a site, or why there is none.

    Args:
        name: the rewrite's.
        analysis: the snapshot.
        nodes: those of the site, anchor first.
        subject: what the reason is about, in front of it.
        found: the cost before and after; or the reason.

    Returns:
        The candidate, or the rejection with its reason.
    """
    place = site(analysis, nodes)
    if isinstance(found, str):
        return Rejection(name, place, f"{subject}: {found}")
    return Candidate(name, place, *found)


def cheaper(costs: tuple[Cost, Cost], dearer: str = "") -> str | tuple[Cost, Cost]:
    """The cost before and after where that has fewer MACs, or why it can't be told; else what `dearer` says.

    Args:
        costs: before and after.
        dearer: a format that may name ``{before}`` and ``{after}``, in MACs.
    """
    before, after = (cost.macs for cost in costs)
    if before is None or after is None:
        return UNKNOWN
    return costs if after < before else dearer.format(before=before, after=after)


def joined(nodes: Sequence[ir.Node], shared: Container[ir.Value]) -> list[list[ir.Node]]:
    """The nodes in groups, those together of which one reads what another makes.

    Args:
        nodes: the nodes, in an order that each group keeps.
        shared: the values that join their reader and their maker.
    """
    groups, inside = Groups[ir.Node](), set(nodes)
    for node in nodes:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer in inside and value in shared:
                groups.join(producer, node)
    return groups.of(nodes)


def is_passthrough(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the node hands on its first input unchanged: Identity, or Dropout in inference mode."""
    if not is_standard(node):
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


def is_inference_normalization(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the node is a BatchNormalization that scales and shifts each channel by constants."""
    if node.op_type != "BatchNormalization" or not is_standard(node):
        return False
    if batch_statistics(node, analysis.opset) or not node.attributes.get_int("spatial", 1):
        return False
    return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def attributes_of(node: ir.Node) -> dict[str, AttributeValue] | None:
    """The node's attributes, for a copy of it; None where one is a tensor, a graph or a reference."""
    kinds = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
    lists = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
    found: dict[str, AttributeValue] = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref() or attribute.type not in (*kinds, *lists):
            return None
        found[name] = tuple(attribute.value) if attribute.type in lists else attribute.value
    return found
