"""Fold BatchNormalization and per-channel affine operators into the linear operators behind them.

What
    A BatchNormalization in inference mode, or a Mul, Add, Sub, Div or Neg by a constant per channel, in front
    of a Conv, ConvTranspose, Gemm or MatMul goes into its weights and bias; a whole chain of them at once,
    and into several readers.

        x ─ BatchNormalization(s, t) ─ Conv(W, b) ─ y        x ─ Conv(W·s, b + Σ W t) ─ y
        x ─ Sub(m) ─ Div(d) ─ Conv(W, padded) ─ y            x ─ Sub(m) ─ Conv(W/d, padded) ─ y

Maths
    W (s·x + t) = (W·s) x + Σ_taps W t, where s multiplies the input channels of W. On the way there s and t
    pass operators f with f(s·x + t) = s·f(x) + t: Relu, LeakyRelu, PRelu and Abs for s ≥ 0 and t = 0, MaxPool
    for s ≥ 0, averages for any s, Transpose, Concat (other inputs have s = 1, t = 0), Flatten and Reshape of
    [N, C, …] to [N, C·…] (each s as often as a channel has positions).

When it applies
    1. Every reader of the chain's last value is a linear operator with constant weights, or one of the
       operators named above all of whose readers are; none is an output of the graph.
    2. The constants broadcast along the input channels and nothing else, and widen nothing.
    3. The shift folds where no zero padding meets it: zeros are put around s·x + t, so that a padded Conv
       needs t = 0, and so does a ConvTranspose, unless it is pointwise.
    4. Where only the scale folds, an Add of t/s stays; there are fewer operators then if the chain has
       two or more, and s is nowhere 0 where t is not.
    Border-corrected maps for the shift are not made: they cost the same pass as the Add that stays.

Exactness
    Exact. Scale and shift are computed in float64 and rounded once.

Cost
    Same MACs; one pass over the activations less for each operator that goes.

References:
    Ioffe and Szegedy 2015, "Batch Normalization", section 3.1 (inference as a linear transform).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.operators import AFFINE, HOMOGENEOUS, MAXIMA, MEANS, is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import algebra
from graphopt.rewrites.base import ExactRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import affine
from graphopt.rewrites.patterns.affine import Affine
from graphopt.rewrites.patterns.common import attributes_of, is_passthrough, linear_before, site
from graphopt.types import Array, Candidate, Rejection, Replacement

CARRIERS = HOMOGENEOUS | MAXIMA | MEANS | {"Transpose", "Concat", "Flatten", "Reshape"}
"""What may stand between an affine operator and a linear one, besides what hands on its input."""


@dataclass(slots=True)
class _Reach:
    """What an affine operator meets behind it.

    Attributes:
        linears: the linear operators, with scale and shift of each input channel.
        carriers: the operators in between, each before those that read it.
        problem: why it can't go into all of them; "" when it can.
    """

    linears: list[tuple[Linear, Array, Array]] = field(default_factory=list)
    carriers: list[ir.Node] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Fold:
    """A chain of affine operators that goes into what reads it.

    Attributes:
        chain: its operators, those in between that hand on their input included.
        source: what the first one works on.
        kept: the shift that stays in front; None when it folds too.
        reach: where the rest goes.
    """

    chain: list[ir.Node]
    source: ir.Value
    kept: Array | None
    reach: _Reach

    @property
    def nodes(self) -> list[ir.Node]:
        """All operators that are replaced, the first of the chain first."""
        return [*self.chain, *self.reach.carriers, *(linear.node for linear, _, _ in self.reach.linears)]

    @property
    def added(self) -> int:
        """How many operators there are that were not: the shift that is kept, and biases of MatMuls."""
        biases = sum(
            linear.op == "MatMul" and linear.rank != 2 and bool(np.any(shift))
            for linear, _, shift in self.reach.linears
        )
        return biases + (self.kept is not None)


@dataclass(frozen=True)
class FoldAffineBefore(ExactRewrite):
    """Folds BatchNormalization and per-channel affine operators into the linear operators behind them."""

    name: ClassVar[str] = "fold_affine_before"

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each chain of affine operators that linear operators read."""
        for node in analysis.nodes.values():
            if node.op_type not in AFFINE | {"Neg"} or not _starts(analysis, node):
                continue
            fold = _fold(analysis, node)
            if fold is None or not fold.reach.linears:
                continue
            place = site(analysis, fold.nodes)
            gone = sum(not is_passthrough(analysis, each) for each in fold.chain)
            problem = fold.reach.problem
            if not problem and fold.added >= gone:
                problem = (
                    "as many operators would stay, since a shift meets padding or a MatMul without a bias"
                )
            if not problem:
                before = analysis.cost(fold.nodes)
                stay = analysis.cost([*fold.nodes[len(fold.chain) :], *fold.chain[: fold.added]])
                yield Candidate(self.name, place, before, stay)
            elif not fold.reach.carriers and not _folds_upwards(analysis, fold.source):
                yield Rejection(self.name, place, f"{analysis.name(node)}: {problem}")

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The linear operators with scaled weights and shifted biases, on what the chain read."""
        fold = _fold(analysis, analysis.nodes[candidate.site.nodes[0]])
        assert fold is not None and fold.reach.linears
        builder = Builder(fold.reach.linears[0][0].dtype)
        x = fold.source.name or ""
        if fold.kept is not None:
            x = builder.node("Add", [x, builder.constant(fold.kept, "shift")], {}, "/shift")
        made = {fold.chain[-1].outputs[0].name or "": x}
        for node in fold.reach.carriers:
            if is_passthrough(analysis, node):
                made[node.outputs[0].name or ""] = made[node.inputs[0].name or ""]  # type: ignore[union-attr]
                continue
            inputs = [None if v is None else made.get(v.name or "", v.name) for v in node.inputs]
            made[node.outputs[0].name or ""] = builder.node(
                node.op_type, inputs, attributes_of(node), f"/{analysis.name(node)}"
            )
        outputs: dict[str, str] = {}
        for linear, scale, shift in fold.reach.linears:
            weight, bias = linear.weight(), linear.bias()
            if np.any(shift):
                bias = algebra.compose_bias(shift, weight, bias, linear.group)
            outputs[linear.y] = builder.linear(
                linear.form,
                made[linear.x],
                algebra.scale_inputs(weight, scale, linear.group),
                bias,
                rank=linear.rank,
                name="" if not outputs else f"/{linear.name}",
                attributes=attributes_of(linear.node) if linear.obstacle else None,
            )
        return builder.replacement(outputs)


def _starts(analysis: Analysis, node: ir.Node) -> bool:
    """Whether no affine operator stands directly in front that would be in the same chain."""
    value = affine.operand(analysis, node)
    while value is not None and (producer := value.producer()) is not None:
        if analysis.sole_consumer(value) is None or producer.graph is not node.graph:
            return True
        if not is_passthrough(analysis, producer):
            return isinstance(_read(analysis, producer), str)
        value = producer.inputs[0]
    return value is not None


def _read(analysis: Analysis, node: ir.Node) -> Affine | str:
    value = affine.operand(analysis, node)
    return affine.read(analysis, node, value, analysis.fixed_shape(value)) if value is not None else ""


def _folds_upwards(analysis: Analysis, source: ir.Value) -> bool:
    """Whether `fold_affine` looks at the chain, so that a reason against folding down says nothing."""
    return linear_before(analysis, source)[0] is not None


def _fold(analysis: Analysis, first: ir.Node) -> _Fold | None:
    """The chain that starts here and what reads it; None where that is no chain."""
    source, found = affine.operand(analysis, first), _read(analysis, first)
    if source is None or isinstance(found, str):
        return None
    chain, whole = [first], found
    while (node := analysis.sole_consumer(chain[-1].outputs[0])) is not None and node.graph is first.graph:
        if not is_passthrough(analysis, node):
            value = affine.operand(analysis, node)
            more = _read(analysis, node) if value is chain[-1].outputs[0] else ""
            if isinstance(more, str):
                break
            whole = whole.then(more)
        chain.append(node)
    end = chain[-1].outputs[0]
    reach = _reach(analysis, end, whole)
    if not reach.problem or not whole.shifts:
        return _Fold(chain, source, None, reach)
    scale, shift = np.broadcast_arrays(whole.scale, whole.shift)
    if np.any((scale == 0) & (shift != 0)):
        return _Fold(chain, source, None, reach)
    kept = np.divide(shift, scale, out=np.zeros_like(shift), where=shift != 0)
    return _Fold(chain, source, kept, _reach(analysis, end, Affine(scale, np.zeros_like(shift))))


def _reach(analysis: Analysis, value: ir.Value, whole: Affine) -> _Reach:
    """Follows an affine operator's result to the linear operators that take it up."""
    reach = _Reach()
    pending, seen = [(value, whole)], set()
    while pending and not reach.problem:
        value, whole = pending.pop()
        if value.is_graph_output():
            reach.problem = reach.problem or f"{value.name} is an output of the graph"
        readers = analysis.consumers(value)
        for reader in readers:
            if reader in seen or sum(each is value for each in reader.inputs) != 1:
                reach.problem = reach.problem or f"{analysis.name(reader)} reads {value.name} in two ways"
                continue
            seen.add(reader)
            linear = analysis.linear(reader)
            if linear is not None and reader.inputs[0] is value:
                taken = _taken_up(linear, whole)
                if isinstance(taken, str):
                    reach.problem = reach.problem or f"{linear.name}: {taken}"
                    taken = np.ones(0), np.zeros(0)
                reach.linears.append((linear, *taken))
                continue
            carried = _carried(analysis, reader, value, whole)
            if isinstance(carried, str):
                reach.problem = reach.problem or f"{analysis.name(reader)}: {carried}"
            else:
                reach.carriers.append(reader)
                pending.append((reader.outputs[0], carried))
        if not readers and not value.is_graph_output():
            reach.problem = reach.problem or f"nothing reads {value.name}"
        if any(reader.graph is not value.graph for reader in readers) or value.graph is None:
            reach.problem = reach.problem or f"{value.name} is read in a subgraph"
    return reach


def _taken_up(linear: Linear, whole: Affine) -> tuple[Array, Array] | str:
    """Scale and shift of each input channel, where the linear operator can take them up."""
    problem = linear.obstacle if whole.shifts else linear.fixed
    if problem or linear.in_channels is None:
        return problem or "its input channels are unknown"
    axis = whole.scale.ndim - 1 if linear.op == "MatMul" else 1
    if whole.scale.ndim <= axis:
        return f"its input has rank {whole.scale.ndim}"
    scale, shift = (affine.per_channel(a, axis, linear.in_channels) for a in (whole.scale, whole.shift))
    if scale is None or shift is None:
        return "scale and shift are not those of its input channels"
    if whole.shifts and linear.form.padded:
        pads = linear.form.auto_pad or list(linear.form.pads)
        return f"it pads with zeros ({pads}), which the shift does not reach"
    uniform = linear.pointwise and not linear.form.strided and not any(linear.form.output_padding)
    if whole.shifts and linear.op == "ConvTranspose" and not uniform:
        return "a shift adds other numbers to its outputs at the border than inside"
    return scale, shift


def _carried(analysis: Analysis, node: ir.Node, value: ir.Value, whole: Affine) -> Affine | str:
    """What is behind the node when nothing is in front of it; else why that is not the same."""
    if is_passthrough(analysis, node):
        return whole
    if not is_standard(node) or node.op_type not in CARRIERS:
        return "it is no linear operator"
    if node.op_type == "Concat":
        return _concatenated(analysis, node, value, whole)
    if node.inputs[0] is not value:
        return f"{value.name} is not what it transforms"
    if node.op_type == "Transpose":
        given = node.attributes.get("perm")
        perm = tuple(given.as_ints()) if given is not None else tuple(reversed(range(whole.scale.ndim)))
        return Affine(whole.scale.transpose(perm), whole.shift.transpose(perm))
    if node.op_type in ("Flatten", "Reshape"):
        return _flattened(analysis, node, whole)
    return affine.commutes(analysis, node, whole) or whole


def _concatenated(analysis: Analysis, node: ir.Node, value: ir.Value, whole: Affine) -> Affine | str:
    """Scale and shift of all channels, where other inputs have none."""
    rank = whole.scale.ndim
    axis = node.attributes["axis"].as_int() % rank
    parts: tuple[list[Array], list[Array]] = ([], [])
    for each in node.inputs:
        shape = analysis.fixed_shape(each)
        size = None if shape is None or len(shape) != rank else shape[axis]
        if size is None:
            return "the sizes that it joins are unknown"
        for part, array, neutral in zip(parts, (whole.scale, whole.shift), (1.0, 0.0), strict=True):
            sizes = [n if i != axis else size for i, n in enumerate(array.shape)]
            part.append(np.broadcast_to(array, sizes) if each is value else np.full(sizes, neutral))
    return Affine(*(np.concatenate(part, axis) for part in parts))


def _flattened(analysis: Analysis, node: ir.Node, whole: Affine) -> Affine | str:
    """Scale and shift of [N, C·…] from those of [N, C, …]."""
    before, after = analysis.fixed_shape(node.inputs[0]), analysis.fixed_shape(node.outputs[0])
    if before is None or len(before) < 2 or None in before[1:] or whole.scale.shape[0] != 1:
        return "the sizes that it joins are unknown"
    if whole.shift.shape[0] != 1:
        return "the shift is not the same for all samples"
    sizes = [n or 0 for n in before[1:]]
    if after is None or len(after) != 2 or after[1] != math.prod(sizes):
        return "it does not join all axes but the first"
    return Affine(*(np.broadcast_to(a, (1, *sizes)).reshape(1, -1) for a in (whole.scale, whole.shift)))
