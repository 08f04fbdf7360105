"""What a model costs: multiply-accumulates, parameters, bytes, and the operators that no count covers.

The unit is the MAC, one multiply-accumulate; FLOPs = 2 × MACs. A bias is no MAC. Only the linear operators
are counted. `uncounted` names all others that compute something, so that none counts as zero in silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operators import FREE, is_standard
from graphopt.model.carried import stored_bytes
from graphopt.model.constant_nodes import constant_tensor
from graphopt.model.traversal import bodies, graphs, nested, subgraphs
from graphopt.types import Shape

SizeOf: TypeAlias = Callable[["ir.Value | None"], "Shape | None"]
"""The shape of a value as far as it is known, such as `analysis.shapes.inference.Sizes.get`."""


ContentOf: TypeAlias = Callable[[ir.Value], "npt.NDArray[np.generic] | None"]
"""What a small value holds, where that is known, such as `analysis.shapes.inference.Sizes.content`."""


def macs(node: ir.Node, size: SizeOf) -> int | None:
    """The multiply-accumulates of one run of the node; None where a size is unknown.

    Raises:
        KeyError: the node is none of `LINEAR_OPS`; see `is_linear`.
    """
    if not is_linear(node):
        raise KeyError(node.op_type)
    return _MACS[node.op_type](node, size)


def is_linear(node: ir.Node) -> bool:
    """Whether `macs` counts the node."""
    return is_standard(node) and node.op_type in LINEAR_OPS


def total_macs(graph: ir.Graph, size: SizeOf, content: ContentOf) -> int | None:
    """The MACs of one run of a graph; None where those of any node are unknown.

    Of the branches of an If the one with more MACs counts where nothing tells which is taken: no run takes
    more.

    Args:
        graph: the graph, such as that of a model.
        size: shapes.
        content: what small values hold.

    Returns:
        The multiply-accumulates, or None.
    """
    found = dearest_run(graph, size, content)
    return None if found is None else found.macs


class Run(NamedTuple):
    """One run of a model.

    Attributes:
        macs: its multiply-accumulates.
        graphs: the graphs that it runs, of each If those of one branch.
    """

    macs: int
    graphs: frozenset[ir.Graph]


def dearest_run(
    graph: ir.Graph,
    size: SizeOf,
    content: ContentOf,
    saved: Mapping[ir.Graph, int] = MappingProxyType({}),
    times: int | None = 1,
) -> Run | None:
    """The run of a graph with the most MACs, whichever branches nothing tells; None where they are unknown.

    Args:
        graph: the graph, such as that of a model.
        size: shapes.
        content: what small values hold.
        saved: MACs that are to be saved in graphs, in all their runs; the run is the dearest one after that.
        times: how often the graph runs; None where that is unknown.

    Returns:
        The run, with its MACs before any are saved.
    """
    total, taken = 0, {graph}
    for node in graph:
        once = macs(node, size) if is_linear(node) else 0
        if once is None or (once and times is None):
            return None
        total += once * (times or 0)
        inner: list[Run] = []
        for body, count in body_runs(node, size, content).items():
            if count == 0:
                continue
            runs = None if times is None or count is None else times * count
            found = dearest_run(body, size, content, saved, runs)
            if found is None:
                return None
            inner.append(found)
        if node.op_type == "If":
            inner = sorted(inner, key=lambda run: run.macs - sum(saved.get(g, 0) for g in run.graphs))[-1:]
        for run in inner:
            total += run.macs
            taken |= run.graphs
    return Run(total, frozenset(taken))


def body_runs(node: ir.Node, size: SizeOf, content: ContentOf) -> dict[ir.Graph, int | None]:
    """How often each body of a node runs whenever the node does; None where that is unknown.

    Each branch of an If runs once at most, so once where nothing tells which is taken.

    Args:
        node: the operator.
        size: shapes.
        content: what small values hold.

    Returns:
        The number by body: of a Scan the length of what it goes along, of a Loop its trip count if its
        condition stays true.
    """
    if not is_standard(node):
        return dict.fromkeys(subgraphs(node))
    if node.op_type == "If":
        condition = _scalar(node.inputs[0], content)
        branches = {"then_branch": condition != 0, "else_branch": condition in (0, None)}
        return {body: int(branches.get(name, True)) for name, body in bodies(node)}
    count = {"Loop": _trip_count, "Scan": _scan_length}.get(node.op_type)
    return {body: count(node, size, content) if count is not None else None for body in subgraphs(node)}


def deciding(node: ir.Node) -> list[ir.Value]:
    """The values that tell whether a body of the node runs at all: of an If its condition, of a Loop both."""
    if not is_standard(node):
        return []
    count = {"If": 1, "Loop": 2}.get(node.op_type, 0)
    return [value for value in node.inputs[:count] if value is not None]


def sure_to_run(node: ir.Node, size: SizeOf, content: ContentOf) -> dict[ir.Graph, bool]:
    """Whether each body of a node is sure to run, once at least, whenever the node does.

    Args:
        node: the operator.
        size: shapes.
        content: what small values hold.

    Returns:
        The answer by body; of the branches of an If no where nothing tells which is taken.
    """
    runs = body_runs(node, size, content)
    told = [_scalar(value, content) for value in deciding(node)]
    if is_standard(node) and node.op_type == "Loop":
        return dict.fromkeys(runs, all(each is not None and each > 0 for each in told))
    return {body: bool(times) and None not in told for body, times in runs.items()}


def _scan_length(node: ir.Node, size: SizeOf, content: ContentOf) -> int | None:
    scanned = node.attributes.get_int("num_scan_inputs", 0)
    axes = node.attributes.get_ints("scan_input_axes") or [0] * scanned
    for value, axis in zip(node.inputs[len(node.inputs) - scanned :], axes, strict=False):
        shape = size(value)
        if shape is not None and -len(shape) <= axis < len(shape) and shape[axis] is not None:
            return shape[axis]
    return None


def _trip_count(node: ir.Node, size: SizeOf, content: ContentOf) -> int | None:
    trips, start = (_scalar(value, content) for value in node.inputs[:2])
    if start == 0:
        return 0
    body = node.attributes["body"].as_graph()
    last = _forwarded(body.outputs[0])
    stays = last is body.inputs[1] or bool(_scalar(last, content))
    begins = node.inputs[1] is None or start is not None
    return max(trips, 0) if trips is not None and stays and begins else None


def _forwarded(value: ir.Value) -> ir.Value:
    """The value that Identity operators hand on."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _scalar(value: ir.Value | None, content: ContentOf) -> int | None:
    """What a value of one element holds; None where that is unknown."""
    held = None if value is None else content(value)
    return int(held.ravel()[0]) if held is not None and held.size == 1 else None


def _conv(node: ir.Node, size: SizeOf) -> int | None:
    """Output elements × in_channels/group × taps; the weight is [M, C/group, taps...]."""
    output, weight = size(node.outputs[0]), _operand(node, size, 1)
    return _product(output, None if weight is None else weight[1:])


def _conv_transpose(node: ir.Node, size: SizeOf) -> int | None:
    """Input pixels × weight elements: every pixel [C] meets the whole weight [C, M/group, taps...]."""
    image, weight = _operand(node, size, 0), _operand(node, size, 1)
    return _product(None if image is None else (image[0], *image[2:]), weight)


def _gemm(node: ir.Node, size: SizeOf) -> int | None:
    """M × K × N for A [M, K], or its transpose, and B [K, N], or its transpose."""
    a, b = _operand(node, size, 0), _operand(node, size, 1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    rows, inner = a[::-1] if node.attributes.get_int("transA", 0) else a
    other, columns = b[::-1] if node.attributes.get_int("transB", 0) else b
    return _product((rows, other if inner is None else inner, columns))


def _matmul(node: ir.Node, size: SizeOf) -> int | None:
    """Broadcast batch × M × K × N for A [..., M, K] and B [..., K, N]; a vector is one row, or one column."""
    a, b = _operand(node, size, 0), _operand(node, size, 1)
    if not a or not b:
        return None
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    inner = b[-2] if a[-1] is None else a[-1]
    return _product(_broadcast(a[:-2], b[:-2]), (a[-2], inner, b[-1]))


_MACS: dict[str, Callable[[ir.Node, SizeOf], int | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}

LINEAR_OPS = frozenset(_MACS)
"""The operators whose MACs are counted, all of the default domain."""


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes of the model: of the main graph, of the functions, and of all subgraphs."""
    for graph in graphs(model):
        yield from graph


def hidden(model: ir.Model) -> dict[ir.OperatorIdentifier, int]:
    """How many linear operators each function has that the model calls, of those that have any."""
    found: dict[ir.OperatorIdentifier, int] = {}
    pending = [model.graph]
    while pending:
        for node in (node for graph in nested(pending.pop()) for node in graph):
            called = node.op_identifier()
            if called in model.functions and called not in found:
                body = model.functions[called].graph
                found[called] = sum(is_linear(each) for graph in nested(body) for each in graph)
                pending.append(body)
    return {name: number for name, number in found.items() if number}


def uncounted(model: ir.Model) -> dict[str, int]:
    """How many nodes there are of each operator that computes something and has no MAC count.

    Sorted by name; an operator of another domain is called ``domain::Op``. A call of a model-local function
    is not listed, as the nodes of the function are.
    """
    found: Counter[str] = Counter()
    for node in nodes(model):
        if node.op_identifier() in model.functions:
            continue
        if not is_standard(node):
            found[f"{node.domain}::{node.op_type}"] += 1
        elif node.op_type not in LINEAR_OPS and node.op_type not in FREE:
            found[node.op_type] += 1
    return dict(sorted(found.items()))


QUANTISE = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Operators between real numbers and integers that stand for them."""
QUANTISED = QUANTISE | {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
"""Operators of quantised models."""


def quantised_note(uncounted_ops: Mapping[str, int]) -> str:
    """What to say of a model that holds operators of quantised models; "" where there are none."""
    found = [f"{number} {op}" for op, number in uncounted_ops.items() if op in QUANTISED]
    if not found:
        return ""
    return (
        f"the model is quantised ({', '.join(found)}), and graphopt runs before quantisation: "
        "what is quantised is left as it is"
    )


FLOAT_TYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})
"""The element types of parameters."""


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The distinct tensors that the model holds, in initializers and Constant nodes alike.

    Both forms say the same, so a model is not smaller for using one of them. A tensor object that several
    initializers share comes once.
    """
    seen: set[int] = set()
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None and id(value.const_value) not in seen:
                seen.add(id(value.const_value))
                yield value.const_value
    for node in nodes(model):
        tensor = constant_tensor(node)
        if tensor is not None and id(tensor) not in seen:
            if "value" in node.attributes:  # of the other forms the tensor was made just now
                seen.add(id(tensor))
            yield tensor


def params(model: ir.Model) -> int:
    """The float elements of the model's distinct tensors (see `tensors`), scalars included."""
    return sum(tensor.size for tensor in tensors(model) if tensor.dtype in FLOAT_TYPES)


def weight_bytes(model: ir.Model) -> int:
    """The bytes of the model's distinct tensors (see `tensors`), of any type."""
    return sum(stored_bytes(tensor) for tensor in tensors(model))


def _operand(node: ir.Node, size: SizeOf, index: int) -> Shape | None:
    return size(node.inputs[index]) if index < len(node.inputs) else None


def _product(*shapes: Shape | None) -> int | None:
    """The product of all sizes; None where one is unknown."""
    sizes: list[int] = []
    for shape in shapes:
        if shape is None:
            return None
        for each in shape:
            if each is None:
                return None
            sizes.append(each)
    return math.prod(sizes)


def _broadcast(a: Sequence[int | None], b: Sequence[int | None]) -> Shape:
    """The shape that two batches broadcast to; of an unknown size and one above 1, the latter."""
    rank = max(len(a), len(b))
    pairs = zip((*(1,) * (rank - len(a)), *a), (*(1,) * (rank - len(b)), *b), strict=True)
    return tuple(y if x == 1 else x if y == 1 or x is not None else y for x, y in pairs)
