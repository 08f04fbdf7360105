"""Which operators hand on their first input unchanged, as far as a snapshot can tell for every run.

One small function an operator; sizes are those that hold whatever a caller feeds (`Analysis.fixed_shape`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import FAR, ints, slice_ranges
from graphopt.analysis.constants import element_type
from graphopt.analysis.operators import IDEMPOTENT, NEUTRAL, VIEWS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.patterns.common import is_passthrough
from graphopt.types import Shape

HOLDS = {
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
    ir.DataType.INT32: (ir.DataType.INT64, ir.DataType.DOUBLE),
}
"""By type the wider ones that hold each of its numbers, so that a Cast there and back changes nothing."""


def handed_on(analysis: Analysis, node: ir.Node) -> ir.Value | None:
    """The input that the node's only read output equals in value, type and shape; None where none does."""
    if not is_standard(node) or not node.inputs or node.inputs[0] is None:
        return None
    if is_passthrough(analysis, node):
        return node.inputs[0]
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if node.op_type in NEUTRAL:
        return _beside_neutral(analysis, node)
    rule = RULES.get(node.op_type)
    return node.inputs[0] if rule is not None and rule(analysis, node) else None


def needs_a_copy(output: ir.Value, source: ir.Value) -> str:
    """Why an Identity is needed for `source` to take the place of `output`; "" when none is."""
    if not output.is_graph_output():
        return ""
    maker = source.producer()
    if maker is None or maker.graph is not output.graph:
        return f"it makes the output {output.name} of what is no result of this graph, {source.name}"
    if source.is_graph_output():
        return f"{source.name} and {output.name} are outputs of the graph, and need a name each"
    return ""


def same_shape(a: Shape | None, b: Shape | None) -> bool:
    """Whether two views of the same elements have one shape; one open size follows from the others."""
    if a is None or b is None or len(a) != len(b) or 0 in a:
        return False
    unknown = [i for i, (m, n) in enumerate(zip(a, b, strict=True)) if m is None or n is None]
    if any(a[i] is not None or b[i] is not None for i in unknown):
        return False
    return len(unknown) <= 1 and all(m == n for m, n in zip(a, b, strict=True))


def _view(analysis: Analysis, node: ir.Node) -> bool:
    return same_shape(analysis.fixed_shape(node.inputs[0]), analysis.fixed_shape(node.outputs[0]))


def _keeps_all_sizes(analysis: Analysis, node: ir.Node) -> bool:
    """For operators that change nothing when every size is known and stays."""
    before, after = analysis.fixed_shape(node.inputs[0]), analysis.fixed_shape(node.outputs[0])
    return before is not None and None not in before and before == after


def _one_input(analysis: Analysis, node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _one_output(analysis: Analysis, node: ir.Node) -> bool:
    return len(node.outputs) == 1 and _keeps_all_sizes(analysis, node)


def _beside_neutral(analysis: Analysis, node: ir.Node) -> ir.Value | None:
    """The operand of a binary operator whose other operand is its neutral number, such as 0 of Add."""
    neutral, commutes = NEUTRAL[node.op_type]
    for value, other in ((0, 1), (1, 0))[: 2 if commutes else 1]:
        constant = analysis.constant(node.inputs[other])
        if constant is not None and _adds_nothing(analysis, node.inputs[value], constant, neutral):
            return node.inputs[value]
    return None


def _adds_nothing(
    analysis: Analysis, value: ir.Value | None, constant: npt.NDArray[np.generic], neutral: float
) -> bool:
    """Whether the constant is the neutral number throughout, and fits into the value's shape."""
    shape = analysis.fixed_shape(value)
    if shape is None or constant.ndim > len(shape) or not np.all(constant == neutral):
        return False
    tail = shape[len(shape) - constant.ndim :]
    return all(size in (1, have) for size, have in zip(constant.shape, tail, strict=True))


def _transpose(analysis: Analysis, node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return perm is not None and list(perm.as_ints()) == sorted(perm.as_ints())


def _cast(analysis: Analysis, node: ir.Node) -> bool:
    target = node.attributes.get("to")
    return target is not None and element_type(node.inputs[0]) == ir.DataType(target.as_int())


def _pad(analysis: Analysis, node: ir.Node) -> bool:
    amounts = ints(node, "pads", 1, analysis.constant)
    return amounts is not None and not any(amounts)


def _slice(analysis: Analysis, node: ir.Node) -> bool:
    shape, ranges = analysis.fixed_shape(node.inputs[0]), slice_ranges(node, analysis.constant)
    if shape is None or ranges is None:
        return False
    return all(
        start == 0 and step == 1 and (end >= FAR or ((size := shape[axis]) is not None and end >= size))
        for axis, (start, end, step) in ranges.items()
    )


def _gather(analysis: Analysis, node: ir.Node) -> bool:
    indices, shape = analysis.constant(node.inputs[1]), analysis.fixed_shape(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) or 0
    if indices is None or shape is None or indices.ndim != 1:
        return False
    return shape[axis] == len(indices) and np.array_equal(indices, np.arange(len(indices)))


def _resize(analysis: Analysis, node: ir.Node) -> bool:
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    if node.op_type == "Upsample" or len(node.inputs) == 2:
        scales = node.attributes.get_floats("scales") or analysis.constant([*node.inputs, None][1])
        return scales is not None and bool(np.all(np.asarray(scales) == 1))
    inputs = [*node.inputs, None, None]
    scales, sizes = analysis.constant(inputs[2]), analysis.constant(inputs[3])
    if scales is not None and scales.size:
        return bool(np.all(scales == 1))
    shape = analysis.fixed_shape(inputs[0])
    named = "axes" not in node.attributes
    return sizes is not None and shape is not None and named and sizes.tolist() == list(shape)


def _pool(analysis: Analysis, node: ir.Node) -> bool:
    ints = node.attributes.get_ints
    return set(ints("kernel_shape", ())) == set(ints("strides", (1,))) == {1} and not any(ints("pads", ()))


def _block_of_one(analysis: Analysis, node: ir.Node) -> bool:
    return node.attributes.get_int("blocksize", 0) == 1


def _again(analysis: Analysis, node: ir.Node) -> bool:
    """The second of two operators of which the first has done all."""
    before = _producer(node)
    return before is not None and before.op_type == node.op_type and is_standard(before)


def _producer(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs[0] is not None else None


RULES: dict[str, Callable[[Analysis, ir.Node], bool]] = {
    **dict.fromkeys(VIEWS, _view),
    **dict.fromkeys(IDEMPOTENT, _again),
    **dict.fromkeys(("Expand", "Tile", "GlobalAveragePool", "GlobalMaxPool"), _keeps_all_sizes),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"), _keeps_all_sizes),
    **dict.fromkeys(("Concat", "Sum", "Max", "Min", "Mean"), _one_input),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _block_of_one),
    "Split": _one_output,
    "Transpose": _transpose,
    "Cast": _cast,
    "Pad": _pad,
    "Slice": _slice,
    "Gather": _gather,
}
