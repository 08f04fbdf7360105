"""Write a PRelu as what onnxruntime has a fast kernel for: LeakyRelu, or two depthwise 1x1.

What
    onnxruntime computes PRelu element by element, outside of its blocks of channels. With one slope it is
    LeakyRelu; with a slope a channel it is a sum of two depthwise 1x1, whose Add goes into the second.

        x ─ PRelu(s) ─ y        x ─ Relu ────────────────────────────────────────── Add ─ y
                                x ─ depthwise 1x1 (−1) ─ Relu ─ depthwise 1x1 (−s) ──┘

Maths
    PRelu(x) = max(x, 0) − s·max(−x, 0), one of which is 0.

When it applies
    1. The slopes are constant, and finite.
    2. They are one number; or one a channel of a map of two spatial axes that a Conv makes or reads, whose
       channels have a blocked kernel.

Exactness
    Exact, to the bit.

Cost
    Two MACs an element more, and a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.linear import Form
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement, Shape


@dataclass(frozen=True)
class SplitPRelu(ExactRewrite):
    """Writes PRelus as LeakyRelus, or as sums of two depthwise 1x1."""

    name: ClassVar[str] = "split_prelu"
    stage: ClassVar[Stage] = Stage.LAST
    time_alone: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each PRelu by constants."""
        for node in analysis.nodes.values():
            if node.op_type != "PRelu" or not is_standard(node):
                continue
            slopes = _slopes(analysis, node)
            if isinstance(slopes, str):
                yield Rejection(self.name, site(analysis, [node]), f"{analysis.name(node)}: {slopes}")
                continue
            before = analysis.cost([node])
            yield Candidate(self.name, site(analysis, [node]), before, _after(analysis, node, slopes))

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """LeakyRelu, or the two convolutions and their sum."""
        node = analysis.nodes[candidate.site.nodes[0]]
        slopes = _slopes(analysis, node)
        assert not isinstance(slopes, str)
        value = node.inputs[0]
        assert value is not None
        builder, x = Builder(slopes.dtype), value.name or ""
        if slopes.size == 1:
            y = builder.node("LeakyRelu", [x], {"alpha": float(slopes[0])})
        else:
            form, kernels = _form(len(slopes)), slopes.astype(np.float64).reshape(-1, 1, 1, 1)
            negative = builder.linear(form, x, -np.ones_like(kernels), None, name="/negative")
            below = builder.node("Relu", [negative], {}, "/below")
            bent = builder.linear(form, below, -kernels, None, name="/slope")
            y = builder.node("Add", [builder.node("Relu", [x], {}, "/relu"), bent], {}, "/sum")
        return builder.replacement({node.outputs[0].name or "": y})


def _form(channels: int) -> Form:
    return Form("Conv", channels, (1, 1), (0, 0, 0, 0), (1, 1))


def _slopes(analysis: Analysis, node: ir.Node) -> Array | str:
    """The one slope, or those of all channels; or why it stays."""
    array = analysis.constant(node.inputs[1])
    if array is None:
        return "its slopes are no constants"
    if array.dtype not in (np.float32, np.float16) or not np.isfinite(array).all():
        return "its slopes are not finite, or of another type than float32 and float16"
    x = node.inputs[0]
    known = analysis.fixed_shape(x)
    if known is not None and not _fits(array.shape, known):
        return "its slopes make the map larger"
    flat: Array = np.asarray(array.ravel(), dtype=array.dtype.name)
    if flat.size and bool(np.all(flat == flat[0])):
        return flat[:1]
    shape = analysis.shape(x)
    if shape is None or len(shape) != 4 or not shape[1]:
        return "it has several slopes, and its map has not two spatial axes"
    channels = shape[1]
    if array.size != channels or array.ndim < 3 or array.shape[-3] != channels:
        return "its slopes are not those of channels"
    if not time_model.blocked(channels, 1, channels):
        return f"onnxruntime has no blocked kernel for {channels} channels one by one"
    if not _by_convolution(analysis, node):
        return "no convolution makes its map or reads it"
    return flat


def _fits(slopes: Shape, shape: Shape) -> bool:
    """Whether slopes are broadcast to a map, and not the map to them, which onnxruntime does too."""
    sizes = shape[len(shape) - len(slopes) :]
    return len(slopes) <= len(shape) and all(
        m is None or n in (1, m) for n, m in zip(slopes, sizes, strict=True)
    )


def _by_convolution(analysis: Analysis, node: ir.Node) -> bool:
    """Whether a Conv makes what a node reads, or reads what it makes."""
    x = node.inputs[0]
    around = [None if x is None else x.producer(), *analysis.consumers(node.outputs[0])]
    return any(each is not None and each.op_type == "Conv" and is_standard(each) for each in around)


def _after(analysis: Analysis, node: ir.Node, slopes: Array) -> Cost:
    """What takes the place of a PRelu costs."""
    shape = analysis.shape(node.outputs[0]) or ()
    elements = int(np.prod([n or 0 for n in shape])) if shape else 0
    bytes_ = elements * slopes.dtype.itemsize
    one = Cost(0, slopes.size, slopes.nbytes, bytes_, time_model.seconds(0, 1, 1, 1, 2 * bytes_))
    if slopes.size == 1:
        return replace(one, params=0, weight_bytes=0)
    known = None not in shape
    seconds = time_model.seconds(elements, slopes.size, 1, slopes.size, 2 * bytes_)
    depthwise = replace(one, macs=elements if known else None, seconds=seconds)
    return depthwise + depthwise + replace(one, params=0, weight_bytes=0)
