"""The gradient of a network's outputs in weights and values on the way, as operators that onnxruntime runs.

Reverse-mode differentiation (Linnainmaa 1976): from the outputs towards the inputs every operator turns the
gradient of its output into that of what it reads, by the rules in `compression.autodiff.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.compression.autodiff.rules import backward
from graphopt.compression.autodiff.tape import Tape
from graphopt.runtime.program import Program


@dataclass(frozen=True, slots=True)
class Gradients:
    """Operators that make gradients, to run behind those of the model.

    Attributes:
        nodes: the operators, in order.
        constants: their constants, by name.
        names: name of the gradient of each value that has one.
        stopped: operators, by type, for whose inputs no rule gave a gradient, though they change with those
            that were wanted.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, npt.NDArray[np.generic]]
    names: dict[str, str]
    stopped: tuple[str, ...] = ()


def gradients(
    analysis: Analysis, program: Program, wanted: Iterable[str], given: Mapping[str, str], prefix: str
) -> Gradients:
    """Operators for the gradient Σ over outputs of (∂output/∂value)ᵀ · r in some values, weights among them.

    Args:
        analysis: a snapshot of the model, at the sizes that are run.
        program: its operators.
        wanted: names of the values.
        given: by name of an output the name of r, a value of its shape.
        prefix: of the names of what is made, see `free_prefix`.

    Returns:
        The operators. A value has no gradient where an operator behind it has no rule, or where no output
        depends on it.
    """
    nodes = list(analysis.model.graph)
    wanted = list(wanted)
    moving = set(wanted)  # values that change with a wanted one, by little where that does
    for node in nodes:
        if not moving.isdisjoint(program.reads(program.index[node])):
            moving.update(value.name or "" for value in node.outputs if _continuous(analysis, value))
    tape = Tape(analysis, moving, prefix)
    parts: dict[str, list[str]] = {name: [r] for name, r in given.items()}
    found: dict[str, str] = {}
    unknown: set[str] = set()  # values whose gradient has a part that no rule gives
    stopped: dict[str, None] = {}
    for node in reversed(nodes):
        outputs = [value.name or "" for value in node.outputs]
        gradient = [tape.sum(parts[name]) if name in parts else None for name in outputs]
        found.update((name, g) for name, g in zip(outputs, gradient, strict=True) if g is not None)
        read = moving & program.reads(program.index[node])
        if not read or not (any(gradient) or not unknown.isdisjoint(outputs)):
            continue
        if not unknown.isdisjoint(outputs):
            unknown |= read
            continue
        made = [*backward(tape, node, gradient), *(None,) * len(node.inputs)]
        given_to = [
            (v.name, g) for v, g in zip(node.inputs, made, strict=False) if v is not None and v.name in read
        ]
        lost = read - {name for name, _ in given_to}  # what a body captures
        lost |= {name or "" for name, g in given_to if g is None}
        if lost:
            stopped[node.op_type] = None
        unknown |= lost
        for name, g in given_to:
            if g is not None:
                parts.setdefault(name or "", []).append(g)
    found.update((name, tape.sum(parts[name])) for name in wanted if name in parts and name not in found)
    names = {name: found[name] for name in wanted if name in found and name not in unknown}
    return Gradients(tape.nodes, tape.constants, names, tuple(stopped))


def _continuous(analysis: Analysis, value: ir.Value) -> bool:
    """Whether a value is no whole number or truth value: those do not change by little."""
    kind = analysis.sizes.dtype(value)
    return kind is None or kind.is_floating_point()


def free_prefix(model: ir.Model) -> str:
    """A prefix that no value of a model has, whichever graph it is in."""
    names = [value.name or "" for node in model.graph.all_nodes() for value in node.outputs]
    for graph in (model.graph, *model.graph.subgraphs()):
        names += [*graph.initializers, *(value.name or "" for value in graph.inputs)]
    prefix = "gradient"
    while any(name.startswith(f"{prefix}/") for name in names):
        prefix += "_"
    return prefix
