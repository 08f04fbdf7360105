"""Replace sizes that the model computes by the numbers that they are in every run.

What
    Shape of a value whose sizes are known, and what Gather, Slice, Concat and arithmetic make of it, become
    constants. A Reshape to sizes of which one is open gets a constant shape that leaves that one out.

        x ─ Shape ─ Slice(2:) ─ Mul(2) ─ Resize ─ y        x ─ Resize(56, 56) ─ y
        x ─┬─────────────────────── Reshape ─ y            x ─ Reshape(-1, 512) ─ y
           └─ Shape ─ Gather(0) ─ Concat(512) ─┘

Maths
    Sizes that hold for every run are numbers. A Reshape keeps the number of elements, so that one of its
    sizes follows from the others (-1); one that is its input's along the same axis is copied (0).

When it applies
    1. The numbers follow from shapes that hold whatever a caller feeds: an open size is taken for nothing but
       itself. They take at most a page (4096 bytes).
    2. Of the sizes that a Reshape makes at most one is open, and none is 0; or each open one is left to it
       already (-1, 0), or computed as that of its input along the same axis.

Exactness
    Exact, also where the open size is 0.

Cost
    No MACs; operators on a few integers go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.evaluation import MOVING_OPS, evaluate, foldable
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.folding.constant_folding import STORED_ANYWAY
from graphopt.rewrites.patterns.common import UNKNOWN, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class FoldSizes(ExactRewrite):
    """Replaces sizes that the model computes by the numbers that they are in every run."""

    name: ClassVar[str] = "fold_sizes"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each operator whose results are known sizes, and for each such Reshape."""
        for node in analysis.nodes.values():
            before = after = analysis.cost([node])
            array = analysis.fixed_content(node.outputs[0]) if _is_read(analysis, node) else None
            if array is not None:
                after = Cost(0, array.size, array.nbytes)
            elif _shape(analysis, node) is None:
                continue
            found = (before, after) if _is_sized(analysis, node) else UNKNOWN
            yield propose(self.name, analysis, [node], analysis.name(node), found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The numbers, or the Reshape with a constant shape."""
        (node,) = (analysis.nodes[name] for name in candidate.site.nodes)
        builder, made = Builder(np.dtype(np.float32)), node.outputs[0].name or ""
        array = analysis.fixed_content(node.outputs[0])
        if array is not None:
            return builder.replacement({made: builder.constant(array, "sizes", keep_type=True)})
        data, shape = node.inputs[0], _shape(analysis, node)
        assert data is not None and shape is not None
        sizes = builder.constant(np.array(shape, np.int64), "shape")
        return builder.replacement({made: builder.node("Reshape", [data.name, sizes])})


def _known(analysis: Analysis, value: ir.Value) -> bool:
    """Whether a value is a constant, or holds sizes that are known and small."""
    if analysis.constants.is_constant(value):
        return True
    array = analysis.fixed_content(value)
    return array is not None and array.nbytes <= STORED_ANYWAY


def _is_read(analysis: Analysis, node: ir.Node) -> bool:
    """Whether the node makes known sizes, of constants not alone, that not known sizes alone are made of."""
    if len(node.outputs) != 1 or not foldable(node):
        return False
    value = node.outputs[0]
    if value.is_graph_output() or analysis.constants.is_constant(value) or not _known(analysis, value):
        return False
    return any(
        reader.graph is not node.graph or not all(_known(analysis, each) for each in reader.outputs)
        for reader in analysis.consumers(value)
    )


def _is_sized(analysis: Analysis, node: ir.Node) -> bool:
    """Whether it is known what sizes it is given at those of the snapshot, at which it can be looked at."""
    given = node.inputs[1:] if node.op_type == "Reshape" else [] if node.op_type == "Shape" else node.inputs
    values = [value for value in given if value is not None and not analysis.constants.is_constant(value)]
    return all(analysis.content(value) is not None for value in values)


def _shape(analysis: Analysis, node: ir.Node) -> list[int] | None:
    """The constant shape of a Reshape whose own is computed; None where it can't be told."""
    if node.op_type != "Reshape" or not is_standard(node) or len(node.inputs) < 2:
        return None
    data, given = node.inputs[:2]
    if data is None or given is None or _known(analysis, given):
        return None
    sizes, entries = analysis.fixed_shape(node.outputs[0]), analysis.fixed_entries(given)
    if sizes is None or entries is None or 0 in sizes or analysis.disputed(node.outputs[0]):
        return None
    if sizes.count(None) < 2:
        return [-1 if size is None else size for size in sizes]
    left_to_it = (-1,) if node.attributes.get_int("allowzero", 0) else (-1, 0)

    def number(axis: int) -> int | None:
        if sizes[axis] is not None or entries[axis] in left_to_it:
            return entries[axis] if sizes[axis] is None else sizes[axis]
        return 0 if _is_copy(analysis, _origin(analysis, given, axis), (data, axis)) else None

    found = [size for axis in range(len(sizes)) if (size := number(axis)) is not None]
    return found if len(found) == len(sizes) else None


def _is_copy(analysis: Analysis, one: tuple[ir.Value, int] | None, other: tuple[ir.Value, int]) -> bool:
    """Whether two values have the same size along an axis each, in every run."""
    return one is not None and (one == other or analysis.open_size(*one) == analysis.open_size(*other) != "")


def _origin(analysis: Analysis, value: ir.Value, place: int) -> tuple[ir.Value, int] | None:
    """The value, and its axis, whose size is an entry of computed sizes; None where it is none's.

    Args:
        analysis: the snapshot.
        value: the computed sizes.
        place: of the entry, in the order of the elements.

    Returns:
        The value and the axis, or None.
    """
    node = value.producer()
    source = node.inputs[0] if node is not None and foldable(node) else None
    if node is None or source is None:
        return None
    if node.op_type == "Shape":
        axes = range(len(analysis.fixed_shape(source) or ()))[node.attributes.get_int("start", 0) :]
        return (source, axes[place]) if place < len(axes) else None
    if node.op_type not in MOVING_OPS | {"Concat"}:
        return None
    moved = node.inputs if node.op_type == "Concat" else [source]
    numbers, entries = [], list[tuple[ir.Value, int]]()
    for each in moved:
        shape = analysis.fixed_shape(each)
        if each is None or shape is None or None in shape:
            return None
        sizes = [size or 0 for size in shape]
        numbers.append(len(entries) + np.arange(math.prod(sizes)).reshape(sizes))
        entries += [(each, i) for i in range(math.prod(sizes))]
    others = node.inputs[len(moved) :]
    if not all(each is None or analysis.constants.is_constant(each) for each in others):
        return None
    taken = evaluate(node, [*numbers, *map(analysis.constant, others)], analysis.opset)
    if taken is None or place >= taken.size or taken.dtype.name not in ("int32", "int64"):
        return None
    return _origin(analysis, *entries[int(taken.ravel()[place])])
