"""The types that If, Loop and Scan give, from those of their bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

import onnx
import onnx_ir as ir

from graphopt.analysis.operators import is_standard
from graphopt.analysis.shapes.data_propagation import DataPropagation
from graphopt.analysis.shapes.tensor_types import merged, sliced, stacked, tensor_type, without_shape

Types: TypeAlias = Sequence["onnx.TypeProto | None"]
"""The types of some values; None where nothing is known."""

_LOOP_PASSES = 4
"""How often a loop's body is inferred before the sizes that it carries count as unknown. Derived: the last
pass but one forgets them, so any number is right; the two before follow a size that is handed from one
carried value to another."""


class BodyInference(Protocol):
    """What control flow needs of the inference that meets it."""

    values: DataPropagation

    def type_of(self, value: ir.Value) -> onnx.TypeProto:
        """The value's type; a float of unknown shape where nothing is known."""

    def run_body(self, body: ir.Graph, given: Types) -> list[onnx.TypeProto]:
        """Infer a subgraph on inputs of the given types; the types of its outputs."""

    def forget_values(self) -> None:
        """Find anew what follows from shapes, after shapes that were only tried."""

    def lenient(self, lenient: bool) -> AbstractContextManager[None]:
        """Within, a node that does not fit is no error."""


def rule_of(node: ir.Node, opset: int) -> Callable[[BodyInference, ir.Node], Types] | None:
    """What infers the node; None where it is no control flow, or not complete.

    The Scan of opset 8, which has a batch besides, is not supported.
    """
    if node.op_type not in _RULES or not is_standard(node) or (node.op_type == "Scan" and opset < 9):
        return None
    rule, needed = _RULES[node.op_type]
    return rule if needed <= node.attributes.keys() else None


def infer_if(walk: BodyInference, node: ir.Node) -> Types:
    """What both branches agree on; what the branch gives that is taken, where the condition is known.

    An exporter may write a Squeeze that fits only where the If takes it, so other branches may not fit.
    """
    condition = walk.values.get(node.inputs[0])
    taken = None
    if condition is not None and condition.complete and condition.values.size == 1:
        taken = bool(condition.values.ravel()[0])
    results = {}
    for branch in (True, False):
        body = node.attributes["then_branch" if branch else "else_branch"].as_graph()
        with walk.lenient(branch is not taken):
            results[branch] = walk.run_body(body, [])
    if taken is not None:
        return results[taken]
    return [merged(a, b) for a, b in zip(results[True], results[False], strict=False)]


def infer_loop(walk: BodyInference, node: ir.Node) -> Types:
    """The carried values, then a stack of what each iteration gives, of unknown length."""
    body = node.attributes["body"].as_graph()
    counters = [tensor_type(onnx.TensorProto.INT64, ()), tensor_type(onnx.TensorProto.BOOL, ())]
    carried = [None if value is None else walk.type_of(value) for value in node.inputs[2:]]
    states, outputs = _iterate(walk, body, counters, carried, [], skipped=1)
    return [*states, *(stacked(each, 0, None) for each in outputs[1 + len(states) :])]


def infer_scan(walk: BodyInference, node: ir.Node) -> Types:
    """The carried values, then what the iterations give, joined along the axes that the node names."""
    body = node.attributes["body"].as_graph()
    count = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    types = [None if value is None else walk.type_of(value) for value in node.inputs]
    axes = node.attributes.get_ints("scan_input_axes") or [0] * (len(types) - count)
    cuts = [sliced(each, axis) for each, axis in zip(types[count:], axes, strict=False)]
    lengths = [length for _, length in cuts if length is not None]
    states, outputs = _iterate(walk, body, [], types[:count], [cut for cut, _ in cuts], skipped=0)
    joined = outputs[count:]
    axes = node.attributes.get_ints("scan_output_axes") or [0] * len(joined)
    length = next((each for each in lengths if isinstance(each, int)), lengths[0] if lengths else None)
    return [*states, *(stacked(each, axis, length) for each, axis in zip(joined, axes, strict=False))]


def _iterate(
    walk: BodyInference, body: ir.Graph, leading: Types, states: Types, trailing: Types, skipped: int
) -> tuple[Types, list[onnx.TypeProto]]:
    """Infer a loop's body until the carried values have just the sizes that no iteration changes.

    Args:
        walk: the inference.
        body: what is repeated.
        leading: the types of the body's inputs before the carried values.
        states: those of the carried values before the first iteration.
        trailing: those of the inputs behind them.
        skipped: the number of the body's outputs before the carried values.

    Returns:
        The types of the carried values in every iteration, and those of the body's outputs.
    """
    for left in reversed(range(_LOOP_PASSES)):
        walk.forget_values()  # they may follow from sizes of the pass before
        outputs = walk.run_body(body, [*leading, *states, *trailing])
        carried = outputs[skipped : skipped + len(states)]
        after = [merged(a, b) for a, b in zip(states, carried, strict=False)]
        if left == 0 or after == states:
            break
        states = after if left > 1 else [without_shape(each) for each in after]
    return states, outputs


_RULES: dict[str, tuple[Callable[[BodyInference, ir.Node], Types], frozenset[str]]] = {
    "If": (infer_if, frozenset({"then_branch", "else_branch"})),
    "Loop": (infer_loop, frozenset({"body"})),
    "Scan": (infer_scan, frozenset({"body", "num_scan_inputs"})),
}
"""Each operator's rule, and the attributes that it needs."""
