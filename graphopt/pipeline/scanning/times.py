"""Where the time of a model goes, expected or measured: to its linear operators, and to others by kind."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis import costs, time_model
from graphopt.analysis.fusions.convolutions import absorbed
from graphopt.analysis.fusions.fused import Fusions
from graphopt.analysis.operators import VIEWS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.test_inputs.choice import TestInputs
from graphopt.errors import InputError
from graphopt.files import show
from graphopt.model.io import Source
from graphopt.report.results import KindRow
from graphopt.runtime import profiling, session
from graphopt.runtime.profiling import Kernel

PASSLESS = VIEWS | {
    "Identity",
    "Dropout",
    "BitCast",
    "Constant",
    "Shape",
    "Size",
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
}
"""Operators that touch no element, or whose work is that of their bodies."""
PICKING = frozenset({"Crop", "CenterCropPad", "Gather", "GatherElements", "GatherND", "Slice"})
"""Operators that read no more than they write."""
LAYOUT = "changes of layout"
KERNELS = {"ReorderInput": LAYOUT, "ReorderOutput": LAYOUT}
"""What kernels are called that a reader can't know."""


class Times(NamedTuple):
    """Seconds of one run of a model.

    Attributes:
        linear: those of linear operators, as far as they are known.
        others: those of all other operators, the kinds that take longest first; None where a size is unknown.
    """

    linear: Mapping[ir.Node, float]
    others: tuple[KindRow, ...] | None


# ---------------------------------------------------------------- expected


def expected(analysis: Analysis) -> Times:
    """What the static time model expects at one thread."""
    linear: dict[ir.Node, float] = {}
    for each in analysis.linears:
        runs, cost = analysis.runs(each.node), analysis.linear_cost(each)
        if runs is not None and cost.macs is not None and cost.seconds:
            linear[each.node] = runs * cost.seconds
    passes = [(kind, analysis.runs(node), _seconds(analysis, node)) for kind, node in _passes(analysis)]
    known = [(kind, runs * once) for kind, runs, once in passes if runs is not None and once is not None]
    return Times(linear, _by_kind(known) if len(known) == len(passes) else None)


def _passes(analysis: Analysis) -> Iterator[tuple[str, ir.Node]]:
    """The operators besides the linear ones that pass over a map, each with its kind; of fused ones one."""
    gone = absorbed(analysis)
    for fused in analysis.cached(Fusions).kernels:
        gone.update(fused.nodes)
        yield fused.kernel, fused.nodes[-1]
    for node in analysis.nodes.values():
        if node in gone or costs.is_linear(node) or (is_standard(node) and node.op_type in PASSLESS):
            continue
        if not all(_known(analysis, value) for value in node.outputs):
            yield _kind(node), node


def _known(analysis: Analysis, value: ir.Value) -> bool:
    """Whether what a value holds is known before the model runs."""
    return analysis.constant(value) is not None or analysis.content(value) is not None


def _seconds(analysis: Analysis, node: ir.Node) -> float | None:
    """One run of an operator that reads and writes each element once; None where a size is unknown."""
    written = [value for value in node.outputs if value.name]
    read = [value for value in node.inputs if value is not None and analysis.constant(value) is None]
    sizes = [_elements(analysis, value) for value in written]
    sizes += sizes if node.op_type in PICKING else [_elements(analysis, value) for value in read]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    kind = analysis.sizes.dtype(written[0]) if written else None
    itemsize = 4 if kind is None or kind is ir.DataType.STRING else kind.itemsize  # of text nothing tells
    slow = time_model.SLOW_SECONDS.get(node.op_type, 0.0)
    return time_model.seconds(0, 1, 1, 1, int(itemsize * sum(known))) + slow * sum(known[: len(written)])


def _elements(analysis: Analysis, value: ir.Value) -> int | None:
    shape = analysis.shape(value)
    if shape is None:
        return None
    known = [size for size in shape if size is not None]
    return math.prod(known) if len(known) == len(shape) else None


# ---------------------------------------------------------------- measured


def measured(analysis: Analysis, kernels: Iterable[Kernel]) -> Times:
    """What kernels took, each counted where its work stands in the model.

    A kernel of a convolution or a matrix product that is named after another operator did that one's work as
    well: it is that of the nearest linear operator before it that has no kernel of its own.

    Args:
        analysis: a snapshot of the model.
        kernels: those that ran for it.

    Returns:
        Their seconds.
    """
    ran = list(kernels)
    own = {kernel.node for kernel in ran}
    linear: dict[ir.Node, float] = {}
    others: list[tuple[str, float]] = []
    for kernel in ran:
        node = _linear(kernel, own)
        if node is not None and analysis.linear(node) is not None:
            linear[node] = linear.get(node, 0.0) + kernel.seconds
        elif kernel.node is not None and (kernel.node.op_type == kernel.op or _multiplies(kernel)):
            others.append((_kind(kernel.node), kernel.seconds))
        else:
            others.append((KERNELS.get(kernel.op, kernel.op), kernel.seconds))
    return Times(linear, _by_kind(others))


def _multiplies(kernel: Kernel) -> bool:
    """Whether a kernel is one of linear operators; it may do another's work, as of a Mul by constants."""
    return any(op in kernel.op for op in ("Conv", "Gemm", "MatMul"))


def _linear(kernel: Kernel, own: Container[ir.Node | None]) -> ir.Node | None:
    """The linear operator whose work a kernel does; None where it does none's.

    Args:
        kernel: the kernel.
        own: operators that have kernels of their own.
    """
    if kernel.node is None or not _multiplies(kernel):
        return None
    waiting, seen = [kernel.node], {kernel.node}
    while waiting:
        node = waiting.pop(0)
        if costs.is_linear(node):
            return node
        before = [value.producer() for value in node.inputs if value is not None]
        near = [each for each in before if each is not None and each not in own and each not in seen]
        waiting += near
        seen.update(near)
    return None


# ---------------------------------------------------------------- both


def _kind(node: ir.Node) -> str:
    """What operators like this one are called, as in `costs.uncounted`."""
    return node.op_type if is_standard(node) else f"{node.domain}::{node.op_type}"


def _by_kind(seconds: Iterable[tuple[str, float]]) -> tuple[KindRow, ...]:
    """The operators of each kind together, those that take longest first."""
    found: dict[str, list[float]] = {}
    for kind, each in seconds:
        found.setdefault(kind, []).append(each)
    rows = (KindRow(kind, len(each), sum(each)) for kind, each in found.items())
    return tuple(sorted(rows, key=lambda row: (-row.seconds, row.op)))


def profiled(source: Source, inputs: TestInputs) -> tuple[list[Kernel], str]:
    """The kernels of a model on the first of its test inputs, and a note on sizes that were guessed for it.

    Raises:
        InputError: the model can't be run.
    """
    where = "the model" if source.path is None else show(source.path)
    if inputs.problem:
        raise InputError(f"{where} can't be measured: {inputs.problem}")
    try:
        ran = profiling.kernels(source.model, inputs.feeds[0])
    except InputError as error:  # which names operators by numbers
        raise InputError(f"{where} can't be measured: {session.unloaded(source) or error}") from error
    sizes = (f"{name} {'x'.join(map(str, array.shape))}" for name, array in inputs.feeds[0].items())
    return ran, f"measured with {', '.join(sizes)}" if inputs.assumed else ""
