"""Replace a convolution whose weights are all zero by its bias, copied to the size of the output.

What
    A residual branch whose last γ is 0, or a pruned layer, gives its bias at every position.

        x ─ Conv (weights 0, bias b) ─ y        x ─ Shape ─ (sizes of y) ─ Expand (b) ─ y

Maths
    0 ∗ x + b = b. The batch is that of x; the spatial sizes of y are constants, or those of x where the
    operator keeps them (stride 1 and as much padding as the kernel takes away).

When it applies
    1. Conv with constant weights, all exactly 0, on an input of any finite values.
    2. The spatial sizes of y hold for every run, or are those of x.
    3. Opset 8 or newer, which has Expand.

Exactness
    Exact.

Cost
    All MACs of the operator go, and those of what nothing else reads in front of it. Some operators on a few
    integers come.

References:
    None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constants import default_opset
from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import ALIKE, is_standard
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.chains import MIN_OPSET_OF_EXPAND, fixed_sizes, pass_over
from graphopt.rewrites.patterns.common import DISPUTED, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class DropZeroConvolution(ExactRewrite):
    """Replaces a convolution of zeros by its bias."""

    name: ClassVar[str] = "drop_zero_convolution"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each convolution whose weights are all zero."""
        if default_opset(analysis.model) < MIN_OPSET_OF_EXPAND:
            return
        for linear in analysis.linears:
            if linear.op != "Conv" or linear.obstacle or linear.stored_weight().any():
                continue
            path = _path(analysis, linear)
            known = linear.macs is not None and (_keeps_sizes(analysis, linear) or _sizes(analysis, linear))
            costs = analysis.cost(path), pass_over(linear.output_shape, linear.itemsize)
            found: str | tuple[Cost, Cost] = costs if known else "its weights are 0, and its sizes are open"
            if analysis.disputed(path[-1].inputs[0]):
                found = f"its weights are 0, and {DISPUTED}"
            yield propose(self.name, analysis, path, linear.name, found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The bias as large as the output."""
        linear = anchor(analysis, candidate)
        assert linear.out_channels is not None
        builder, axes, sizes = Builder(linear.dtype), len(linear.kernel), _sizes(analysis, linear)
        bias = linear.bias()
        values = np.zeros(linear.out_channels) if bias is None else bias
        source = _path(analysis, linear)[-1].inputs[0]
        assert source is not None
        shape = builder.node("Shape", [source.name], {}, "/shape")

        def part(*places: int) -> str:
            index = builder.constant(np.array(places, np.int64), "places")
            return builder.node("Gather", [shape, index], {"axis": 0}, "/sizes")

        tail = [linear.out_channels, *(sizes or ())]
        parts = [part(0), builder.constant(np.array(tail, np.int64), "channels")]
        if sizes is None:
            parts.append(part(*range(2, 2 + axes)))
        whole = builder.node("Concat", parts, {"axis": 0}, "/size")
        constant = builder.constant(values.reshape(1, -1, *(1,) * axes), "bias")
        return builder.replacement({linear.y: builder.node("Expand", [constant, whole], {}, "/bias")})


def _path(analysis: Analysis, linear: Linear) -> list[ir.Node]:
    """The operator, and those in front of it that only serve it; the last reads a map of as many samples.

    Where the sizes of the output are those of the input, so are those of that map.
    """
    path, open_sizes = [linear.node], _sizes(analysis, linear) is None
    while (value := path[-1].inputs[0]) is not None and (node := value.producer()) is not None:
        above = analysis.linear(node)
        alone = analysis.sole_consumer(value) is not None and node.graph is linear.node.graph
        same = is_standard(node) and node.op_type in ALIKE | {"Identity"}
        if above is not None and above.op == "Conv":
            same = not open_sizes or _keeps_sizes(analysis, above)
        if not (alone and same and len(node.outputs) == 1):
            break
        path.append(node)
    return path


def _sizes(analysis: Analysis, linear: Linear) -> tuple[int, ...] | None:
    """The spatial sizes of the output, where they hold for every run."""
    return fixed_sizes(analysis.fixed_shape(linear.node.outputs[0]))


def _keeps_sizes(analysis: Analysis, linear: Linear) -> bool:
    """Whether the output is as large as the input, whatever that is."""
    form, axes = linear.form, len(linear.kernel)
    if form.strided or linear.form.auto_pad:
        return False
    return all(
        form.pads[axis] + form.pads[axis + axes] == form.dilations[axis] * (linear.kernel[axis] - 1)
        for axis in range(axes)
    )
