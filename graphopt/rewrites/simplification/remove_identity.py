"""Remove operators that change nothing.

What
    Operators whose output is their input, and pairs that undo each other, go away. Their readers read the
    source.

        x ─ Identity ─ Dropout ─ Mul(1) ─ Pad(0, 0, 0, 0) ─ y        x ─ y
        x₁, x₂ ─ Concat ─ Split ─ y₁, y₂                             x₁ ─ y₁, x₂ ─ y₂
        x ─ Flatten ─ Reshape ─ y                                    x ─ Reshape ─ y
        Concat(x₁, Concat(x₂, x₃)) ─ y                               Concat(x₁, x₂, x₃) ─ y

Maths
    None of them computes: Identity; Dropout in inference mode; Add and Sub of 0, Mul, Div and Pow of 1; Pad
    of nothing; Slice and Gather of everything in order; Transpose, Cast, Reshape, Expand, Tile and Resize to
    what the input is; pools and reductions over single elements; Concat and Sum of one; a second Relu. Pairs:
    Concat and Split at the same places, either way round; a Cast to a wider type and back; two operators that
    only rename axes (Reshape, Flatten, Squeeze, Unsqueeze) are one Reshape; a Concat that only a Concat along
    the same axis reads is a part of that.

When it applies
    1. It changes nothing whatever sizes a caller feeds: a constant must not widen the other operand by
       broadcasting, and an open size is taken for nothing but itself.
    2. A Cast to a narrower type and back is not undone: it rounds. Nor is a Reshape whose 0 copies a size
       taken for the size of another input.
    3. No other output is read, such as the mask of a Dropout.
    4. A value that has to keep its own name remains: between an input of the graph and an output, or two
       outputs, one Identity is needed anyway.

Exactness
    Exact; nothing is computed.

Cost
    No MACs; each operator less saves its call, and most of them a copy. Every application removes at least
    one operator, so there is an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import element_type
from graphopt.analysis.operators import IDEMPOTENT, VIEWS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose, site
from graphopt.rewrites.simplification.noops import (
    HOLDS,
    handed_on,
    needs_a_copy,
    same_shape,
)
from graphopt.types import Candidate, Cost, Rejection, Replacement, Shape


@dataclass(frozen=True)
class RemoveIdentity(ExactRewrite):
    """Removes operators that change nothing."""

    name: ClassVar[str] = "remove_identity"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each operator that changes nothing, alone or behind the one before it."""
        for node in analysis.nodes.values():
            found = _bypass(analysis, node)
            if found is not None:
                offer = _needs_copies(node, found.sources) or (analysis.cost([node]), Cost(0))
                yield propose(self.name, analysis, [node, *found.others], analysis.name(node), offer)
                continue
            merged = _merged_view(analysis, node)
            if merged is not None:
                first, _, _ = merged
                before = analysis.cost([node, first])
                yield Candidate(self.name, site(analysis, [node, first]), before, analysis.cost([node]))
            elif inner := _inner_concats(analysis, node):
                nodes = [node, *inner]
                yield Candidate(self.name, site(analysis, nodes), analysis.cost(nodes), analysis.cost([node]))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The sources in place of the outputs, or one Reshape or Concat in place of several."""
        node = analysis.nodes[candidate.site.nodes[0]]
        builder = Builder(np.dtype(np.float32))
        found = _bypass(analysis, node)
        if found is not None:
            return builder.replacement({y: x.name or "" for y, x in found.sources.items()})
        inner = _inner_concats(analysis, node)
        if inner:
            parts = {each.outputs[0]: each.inputs for each in inner}
            read = [part for value in node.inputs if value is not None for part in parts.get(value, (value,))]
            names = [part.name for part in read if part is not None]
            y = builder.node("Concat", names, {"axis": node.attributes["axis"].as_int()})
            return builder.replacement({node.outputs[0].name or "": y})
        merged = _merged_view(analysis, node)
        assert merged is not None
        _, source, sizes = merged
        shape = builder.constant(np.array(sizes, np.int64), "shape")
        y = builder.node("Reshape", [source.name, shape])
        return builder.replacement({node.outputs[0].name or "": y})


@dataclass(frozen=True, slots=True)
class _Bypass:
    """What an operator's outputs equal.

    Attributes:
        sources: the equal value by name of the output.
        others: the operators that lie between, which go away if nothing else reads them.
    """

    sources: Mapping[str, ir.Value]
    others: tuple[ir.Node, ...] = ()


def _bypass(analysis: Analysis, node: ir.Node) -> _Bypass | None:
    """Which values can be read instead of the operator's outputs; None where it does something."""
    source = handed_on(analysis, node)
    if source is not None:
        maker = source.producer() if node.op_type in IDEMPOTENT else None
        return _Bypass({node.outputs[0].name or "": source}, (maker,) if maker is not None else ())
    first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if first is None or first.graph is not node.graph or not is_standard(node) or not is_standard(first):
        return None
    match first.op_type, node.op_type:
        case "Concat", "Split":
            return _split_of_concat(analysis, first, node)
        case "Split", "Concat":
            return _concat_of_split(analysis, first, node)
        case "Cast", "Cast":
            return _cast_and_back(first, node)
        case a, b if a in VIEWS and b in VIEWS and first.inputs[0] is not None:
            source = first.inputs[0]
            if same_shape(analysis.fixed_shape(source), analysis.fixed_shape(node.outputs[0])):
                return _Bypass({node.outputs[0].name or "": source}, (first,))
    return None


def _split_of_concat(analysis: Analysis, concat: ir.Node, split: ir.Node) -> _Bypass | None:
    joined = analysis.fixed_shape(concat.outputs[0])
    axis = _common_axis(concat, split, joined)
    if axis is None or len(concat.inputs) != len(split.outputs):
        return None
    going_in = [_size(analysis.fixed_shape(value), axis) for value in concat.inputs]
    coming_out = [_size(analysis.fixed_shape(value), axis) for value in split.outputs]
    if None in going_in or going_in != coming_out:
        return None
    pairs = zip(split.outputs, concat.inputs, strict=True)
    return _Bypass({y.name or "": x for y, x in pairs if x is not None}, (concat,))


def _concat_of_split(analysis: Analysis, split: ir.Node, concat: ir.Node) -> _Bypass | None:
    axis = _common_axis(split, concat, analysis.fixed_shape(split.inputs[0]))
    if axis is None or tuple(concat.inputs) != tuple(split.outputs) or split.inputs[0] is None:
        return None
    return _Bypass({concat.outputs[0].name or "": split.inputs[0]}, (split,))


def _common_axis(a: ir.Node, b: ir.Node, shape: Shape | None) -> int | None:
    """The axis along which both work, counted from the front."""
    if shape is None:
        return None
    first, second = ((node.attributes.get_int("axis", 0) or 0) % len(shape) for node in (a, b))
    return first if first == second else None


def _size(shape: Shape | None, axis: int) -> int | None:
    return None if shape is None else shape[axis]


def _cast_and_back(first: ir.Node, second: ir.Node) -> _Bypass | None:
    source = first.inputs[0]
    kind = element_type(source)
    if source is None or kind is None:
        return None
    wide, back = (ir.DataType(node.attributes["to"].as_int()) for node in (first, second))
    if back != kind or wide not in HOLDS.get(kind, ()):
        return None
    return _Bypass({second.outputs[0].name or "": source}, (first,))


def _merged_view(analysis: Analysis, node: ir.Node) -> tuple[ir.Node, ir.Value, list[int]] | None:
    """The operator before, its input and the sizes of one Reshape, where two only rename axes."""
    value = node.inputs[0] if node.inputs else None
    if node.op_type not in VIEWS or value is None or not is_standard(node):
        return None
    first = value.producer()
    if first is None or first.op_type not in VIEWS or not is_standard(first) or first.graph is not node.graph:
        return None
    source, shape = first.inputs[0], analysis.fixed_shape(node.outputs[0])
    if source is None or shape is None or 0 in shape or shape.count(None) > 1:
        return None
    if analysis.sole_consumer(value) is not node:
        return None
    return first, source, [-1 if size is None else size for size in shape]


def _inner_concats(analysis: Analysis, node: ir.Node) -> list[ir.Node]:
    """The Concats along its axis that a Concat alone reads; none where a Split takes it apart again."""
    shape = analysis.fixed_shape(node.outputs[0]) if _is_concat(node) else None
    if shape is None or any(reader.op_type == "Split" for reader in analysis.consumers(node.outputs[0])):
        return []
    makers = dict.fromkeys(value.producer() for value in node.inputs if value is not None)
    inner = [each for each in makers if each is not None and _is_concat(each) and each.graph is node.graph]
    alone = [each for each in inner if analysis.sole_consumer(each.outputs[0]) is node]
    return [each for each in alone if _common_axis(each, node, shape) is not None]


def _is_concat(node: ir.Node) -> bool:
    return node.op_type == "Concat" and is_standard(node) and "axis" in node.attributes


def _needs_copies(node: ir.Node, sources: Mapping[str, ir.Value]) -> str:
    """Why an Identity would be needed in the operator's place; "" when none is."""
    reasons = (needs_a_copy(y, sources[y.name or ""]) for y in node.outputs if y.name in sources)
    values = list(sources.values())
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        return f"{repeated.name} stands for several of its outputs"
    return next((reason for reason in reasons if reason), "")
