"""The gradient of a network's outputs in values on the way, as operators that onnxruntime runs.

Reverse-mode differentiation (Linnainmaa 1976): from the outputs towards the inputs every operator turns the
gradient of its output into that of what it reads, by the rules in `graphopt.vjp`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from graphopt.analysis import Analysis
from graphopt.vjp import WHOLE, Tape, backward
from graphopt.walk import Program


@dataclass(frozen=True, slots=True)
class Gradients:
    """Operators that make gradients, to run behind those of the model.

    Attributes:
        nodes: the operators, in order.
        constants: their constants, by name.
        names: name of the gradient of each value that has one.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, npt.NDArray[np.generic]]
    names: dict[str, str]


def gradients(
    analysis: Analysis, program: Program, wanted: Iterable[str], given: Mapping[str, str]
) -> Gradients:
    """Operators for the gradient Σ over outputs of (∂output/∂value)ᵀ · r in some values.

    Args:
        analysis: a snapshot of the model.
        program: its operators.
        wanted: names of the values.
        given: by name of an output the name of r, a value of its shape.

    Returns:
        The operators. A value has no gradient where an operator behind it has no rule, or where no output
        depends on it.
    """
    nodes = list(analysis.model.graph)
    wanted = list(wanted)
    moving = set(wanted)  # values that change with a wanted one
    for node in nodes:
        if node.op_type not in WHOLE and not moving.isdisjoint(program.reads(program.index[node])):
            moving.update(value.name or "" for value in node.outputs)
    tape = Tape(analysis, moving)
    parts: dict[str, list[str]] = {name: [r] for name, r in given.items()}
    found: dict[str, str] = {}
    unknown: set[str] = set()  # values whose gradient has a part that no rule gives
    for node in reversed(nodes):
        outputs = [value.name or "" for value in node.outputs]
        gradient = [tape.sum(parts[name]) if name in parts else None for name in outputs]
        found.update((name, g) for name, g in zip(outputs, gradient, strict=True) if g is not None)
        read = moving & program.reads(program.index[node])
        if not read or not (any(gradient) or not unknown.isdisjoint(outputs)):
            continue
        inputs = backward(tape, node, gradient) if any(gradient) else ()
        by_name = [(v.name, g) for v, g in zip(node.inputs, inputs, strict=False) if v is not None and g]
        for name, g in by_name:
            if name in read:
                parts.setdefault(name, []).append(g)
        unknown |= read if not unknown.isdisjoint(outputs) else read - {name for name, _ in by_name}
    names = {name: found[name] for name in wanted if name in found and name not in unknown}
    return Gradients(tape.nodes, tape.constants, names)
