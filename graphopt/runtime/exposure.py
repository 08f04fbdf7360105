"""Values inside a model: read as outputs of their own, or given in the place of what computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from graphopt.runtime.session import Structure

_GIVEN = "{}/given"


def exposed(parts: Structure, names: Sequence[str]) -> Structure:
    """The model with more values of its outermost graph as outputs, behind its own.

    Args:
        parts: the model.
        names: the values; those that are outputs are there already.

    Returns:
        The model; it shares the weights.
    """
    present = {output.name for output in parts.proto.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name not in present]
    if not wanted:
        return parts
    proto = _copy(parts)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return Structure(proto, parts.weights)


def given(parts: Structure, arrays: Mapping[str, npt.NDArray[Any]]) -> Structure:
    """The model with values as inputs, called as `fed` does, in the place of the operators that make them.

    Args:
        parts: the model.
        arrays: what they are like, by name: all that their operators make and something reads.

    Returns:
        The model; it shares the weights.
    """
    proto = _copy(parts)
    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if not any(name in arrays for name in node.output):
            graph.node.append(node)
            continue
        for name in node.output:
            if name in arrays:
                graph.node.append(onnx.helper.make_node("Identity", [_GIVEN.format(name)], [name]))
    for name, array in arrays.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        sizes = [None] * array.ndim
        graph.input.append(onnx.helper.make_tensor_value_info(_GIVEN.format(name), kind, sizes))
    return Structure(proto, parts.weights)


def fed(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays by the names of the inputs that `given` makes for them."""
    return {_GIVEN.format(name): array for name, array in arrays.items()}


def _copy(parts: Structure) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(parts.proto)
    return proto
