"""Fold a zero Pad into the convolution that follows.

What
    A Pad that puts zeros around the spatial axes goes into the pads of the convolutions that read it.

        x ─ Pad(1, 1, 1, 1) ─ Conv(3x3, pads 0) ─ y        x ─ Conv(3x3, pads 1) ─ y

Maths
    A convolution pads its input with zeros itself, so pads add up: p' = p + q on each side of each axis.

When it applies
    1. The Pad is constant: mode ``constant``, value 0, amounts known.
    2. It pads spatial axes only, and crops none (no negative amount).
    3. All its readers are Conv operators, so that the Pad goes away, and it is no output of the graph.
    4. ``auto_pad`` can be resolved: VALID is zero pads; SAME depends on the padded size and is left alone.

Exactness
    Exact; no arithmetic changes.

Cost
    Same MACs; one copy of the input less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear, why_no_constant
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import propose
from graphopt.types import Candidate, Rejection, Replacement


@dataclass(frozen=True)
class FoldPad(ExactRewrite):
    """Folds a zero Pad into the convolution that follows."""

    name: ClassVar[str] = "fold_pad"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution that reads a Pad."""
        for linear in analysis.linears:
            source = linear.node.inputs[0]
            pad = source.producer() if source is not None else None
            if (
                linear.op != "Conv"
                or pad is None
                or pad.op_type != "Pad"
                or not is_standard(pad)
                or pad.graph is not linear.node.graph
            ):
                continue
            nodes = [linear.node, pad]
            costs = analysis.cost(nodes), analysis.linear_cost(linear)
            found = _refusal(analysis, linear, pad) or costs
            yield propose(self.name, analysis, nodes, analysis.name(pad), found)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolution with larger pads, on what the Pad read."""
        conv, pad = (analysis.nodes[name] for name in candidate.site.nodes)
        linear = analysis.linear(conv)
        amounts = _amounts(analysis, pad)
        assert linear is not None and not isinstance(amounts, str) and pad.inputs[0] is not None
        pads = tuple(p + q for p, q in zip(linear.form.pads, amounts, strict=True))
        builder = Builder(linear.dtype)
        form = replace(linear.form, pads=pads)
        y = builder.like(linear, form, pad.inputs[0].name or "")
        return builder.replacement({linear.y: y})


def _refusal(analysis: Analysis, linear: Linear, pad: ir.Node) -> str:
    """Why the Pad can't go into the convolution; "" when it can."""
    amounts = _amounts(analysis, pad)
    if isinstance(amounts, str):
        return amounts
    if linear.obstacle:
        return f"{linear.name}: {linear.obstacle}"
    padded = pad.outputs[0]
    if padded.is_graph_output():
        return f"{padded.name} is an output of the graph"
    for reader in analysis.consumers(padded):
        mode = reader.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
        if not _could_take(analysis, reader, padded):
            return f"{analysis.name(reader)} reads {padded.name} too"
        if mode.startswith("SAME"):
            return f"auto_pad={mode} of {analysis.name(reader)} depends on the padded size"
    return ""


def _could_take(analysis: Analysis, reader: ir.Node, padded: ir.Value) -> bool:
    """Whether a reader of the padded value is a Conv beside the Pad that has it as input alone."""
    view = analysis.linear(reader)
    if view is None or view.op != "Conv" or view.obstacle or reader.graph is not padded.graph:
        return False
    return reader.inputs[0] is padded and all(value is not padded for value in reader.inputs[1:])


def _amounts(analysis: Analysis, pad: ir.Node) -> tuple[int, ...] | str:
    """Zeros put before and behind each spatial axis (begin…, end…), or why they don't fold."""
    mode = pad.attributes.get_string("mode", "constant")
    if mode != "constant":
        return f"mode {mode} does not pad with zeros"
    shape = analysis.shape(pad.inputs[0])
    if shape is None:
        return "the rank of its input is unknown"
    if "pads" in pad.attributes:  # up to opset 10
        amounts = list(pad.attributes["pads"].as_ints())
        fill = pad.attributes.get_float("value", 0.0)
    else:
        inputs = [*pad.inputs[1:], None, None, None]
        constants = [analysis.constant(v) for v in inputs[:3]]
        for v, c in zip(inputs[:3], constants, strict=True):
            if v is not None and c is None:
                return why_no_constant(analysis.constants, v)
        given, filler, axes = constants
        if given is None:
            return "it has no amounts"
        fill = float(np.asarray(filler).reshape(-1)[0]) if filler is not None else 0.0
        amounts = _spread(given, axes, len(shape))
    if fill != 0.0:
        return f"it pads with {fill:g}, not with zeros"
    rank = len(shape)
    begin, end = amounts[:rank], amounts[rank:]
    if any(begin[:2]) or any(end[:2]):
        return "it pads the batch or the channels"
    if min(amounts) < 0:
        return f"it crops (pads {amounts})"
    return (*begin[2:], *end[2:])


def _spread(given: object, axes: object, rank: int) -> list[int]:
    """The amounts of all axes, from those of some (opset 18)."""
    amounts = [int(v) for v in np.asarray(given).reshape(-1)]
    if axes is None:
        return amounts
    named = [int(v) % rank for v in np.asarray(axes).reshape(-1)]
    spread = [0] * 2 * rank
    for position, axis in enumerate(named):
        spread[axis], spread[axis + rank] = amounts[position], amounts[position + len(named)]
    return spread
