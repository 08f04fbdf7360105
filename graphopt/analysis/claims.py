"""What a file says of the shapes of inner values, held against what follows from the inputs.

It is a claim. It may be left from an earlier export, of sizes that were opened since, and onnxruntime plans
its memory by it: two sizes of one name are taken for equal. What is narrower than inference derives from the
inputs, or contradicts it, is put right. What inference has no rule for, custom operators and what reads them,
can't be contradicted: it stays where it names every open size that reaches it, as only a claim can that was
made since they are open. Else nothing of it is believed but the rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.analysis.constants import Constants, default_opset
from graphopt.analysis.operators import is_standard
from graphopt.analysis.shapes import onnx_rules
from graphopt.analysis.shapes.inference import infer
from graphopt.analysis.shapes.inputs import fixed, names_all, symbol
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.model.traversal import nested, reads, subgraphs, topological
from graphopt.types import Dim, Dims


def corrected(model: ir.Model, constants: Constants) -> dict[ir.Value, Dims | None]:
    """The inner values whose declared shape does not follow from the inputs, with what they may declare.

    The inputs and outputs of the model are its interface: what is declared of them is no claim.

    Args:
        model: the model; it is not changed.
        constants: its constants.

    Returns:
        Shapes of numbers and of names that inputs declare, None for sizes that may be any; None where not
        even the rank holds.

    Raises:
        InputError: a node's inputs do not fit its operator, or a graph has a cycle.
    """
    inner = list(_inner(model))
    if not inner:
        return {}
    claims = _Claims(model, infer(model, constants, assume_batch=None, claims=False))
    for value in (*model.graph.outputs, *inner):
        claims.gather(value)
    found = ((value, claims.right(value)) for value in inner)
    return {value: right for value, right in found if right is None or right != _declared(value)}


def _inner(model: ir.Model) -> Iterator[ir.Value]:
    """The values that declare a shape; inputs, outputs and initializers of the model apart."""
    for graph in nested(model.graph):
        outermost = graph is model.graph
        made = (value for node in topological(graph) for value in node.outputs)
        for value in (*(() if outermost else graph.inputs), *made):
            if value.shape is not None and not (outermost and value.is_graph_output()):
                yield value


def _declared(value: ir.Value) -> Dims:
    """The shape that a value declares; None for a size that has neither number nor name."""
    return tuple(symbol(dim) or fixed(dim) for dim in value.shape or ())


class _Claims:
    """The claims of one model, and what its inputs tell."""

    def __init__(self, model: ir.Model, sizes: Sizes) -> None:
        self._sizes = sizes
        self._untold = _untold(model)
        declared = {symbol(dim) for value in model.graph.inputs for dim in value.shape or ()}
        self._symbols = {name for name in declared if name is not None}
        self._meaning: dict[str, Dim] = {name: sizes.pinned.get(name, name) for name in self._symbols}

    def gather(self, value: ir.Value) -> None:
        """Note what the names that a value declares stand for: what they do where they come first."""
        derived = self._sizes.dims(value)
        if value.shape is None or derived is None or len(derived) != len(value.shape):
            return
        for said, size in zip(_declared(value), derived, strict=True):
            if isinstance(said, str) and size is not None:
                self._meaning.setdefault(said, size)

    def right(self, value: ir.Value) -> Dims | None:
        """What a value may declare: what it does where that holds, else what was derived."""
        declared, derived = _declared(value), self._sizes.dims(value)
        opened = self._sizes.varying.get(value)
        free = not opened or (value in self._untold and names_all(value, opened))
        if derived is None:
            return declared if free else (None,) * len(declared)
        disputed = value in self._sizes.disputed  # neither onnx's size nor onnxruntime's may stand there
        if len(derived) != len(declared):
            return None if disputed else tuple(self._sayable(size) for size in derived)
        return tuple(
            said if self._holds(said, size, free) else None if disputed else self._sayable(size)
            for said, size in zip(declared, derived, strict=True)
        )

    def _holds(self, said: Dim, derived: Dim, free: bool) -> bool:
        """Whether a size is the one that was derived; where none was, whether it may be any."""
        meant = self._meaning.get(said) if isinstance(said, str) else said
        if meant is None or derived is None:
            return meant is None or free
        if isinstance(meant, str) and isinstance(derived, str):
            return self._sizes.open.alike(meant, derived)
        return meant == derived

    def _sayable(self, size: Dim) -> Dim:
        """A size as a file can say it: by number, or by the name of an input's."""
        return size if isinstance(size, int) or size in self._symbols else None


def _untold(model: ir.Model) -> set[ir.Value]:
    """The values for which there is no rule: what custom operators make, and all that follows from it."""
    found: set[ir.Value] = set()
    opset = default_opset(model)
    for graph in nested(model.graph):
        for node in topological(graph):
            inside = (each for body in subgraphs(node) for part in nested(body) for each in part)
            custom = not all(_has_rule(each, opset) for each in (node, *inside))
            if custom or not found.isdisjoint(reads(node)):
                found.update(node.outputs, *(body.inputs for body in subgraphs(node)))
    return found


def _has_rule(node: ir.Node, opset: int) -> bool:
    return is_standard(node) and onnx_rules.schema_of(node.op_type, node.domain, opset) is not None
