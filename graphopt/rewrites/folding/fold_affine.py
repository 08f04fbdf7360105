"""Fold BatchNormalization and per-channel affine operators into the linear operator before them.

What
    A BatchNormalization in inference mode, or a Mul, Add, Sub, Div or Neg by a constant per channel, behind a
    Conv, ConvTranspose, Gemm or MatMul goes into its weights and bias; a whole chain of them at once.

        x ─ Conv(W, b) ─ BatchNormalization ─ Mul(c) ─ Add(d) ─ y        x ─ Conv(s·W, s·b + t) ─ y

Maths
    Each such operator is y ↦ s·y + t with one s and one t a channel. For BatchNormalization
    s = γ / √(σ² + ε) and t = β − s·μ. A chain composes: (s₂, t₂) ∘ (s₁, t₁) = (s₂·s₁, s₂·t₁ + t₂).
    Then s·(W x + b) + t = (s·W) x + (s·b + t). On the way there it passes operators f with f(s·y + t) =
    s·f(y) + t: Relu, LeakyRelu, PRelu and Abs for s ≥ 0 and t = 0, MaxPool for s ≥ 0, averages for any s.

When it applies
    1. The linear operator's weights are constants, and nobody else reads its output or a value in between.
    2. The constant broadcasts along the operator's output channels and nothing else.
    3. BatchNormalization is in inference mode and its channel axis is the operator's output axis, which for
       a MatMul of rank 3 it is not.
    4. The result has fewer operators: a MatMul has no bias, so a shift behind it folds only at rank 2 (Gemm).
    5. What stands in between hands on its input (Identity, Dropout in inference mode) or commutes: the
       activations named above with no negative scale and no shift, MaxPool with no negative scale, and
       AveragePool, GlobalAveragePool or ReduceMean over positions, with a shift if they count no padding.

Exactness
    Exact. Scale and shift are computed in float64 and rounded once.

Cost
    Same MACs; one pass over the activations less for each operator that goes.

References:
    Ioffe and Szegedy 2015, "Batch Normalization", section 3.1 (inference as a linear transform).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import algebra
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import affine
from graphopt.rewrites.patterns.affine import Affine
from graphopt.rewrites.patterns.common import attributes_of, is_passthrough, propose, site
from graphopt.types import Array, Candidate, Rejection, Replacement, Shape


@dataclass(frozen=True)
class FoldAffine(ExactRewrite):
    """Folds BatchNormalization and per-channel affine operators into the linear operator before them."""

    name: ClassVar[str] = "fold_affine"
    stage: ClassVar[Stage] = Stage.FIRST

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each linear operator that affine operators follow."""
        for linear in analysis.linears:
            chain, reason = _chain(analysis, linear)
            if not chain:
                if reason:
                    yield Rejection(self.name, site(analysis, [linear.node]), reason)
                continue
            nodes = [linear.node, *chain]
            reason, kept = linear.fixed, []
            if not reason:
                kept = _carriers(analysis, linear, chain)
                if _operators(linear, _compose(analysis, linear, chain)[1]) + len(kept) >= len(nodes):
                    reason = f"a MatMul of rank {linear.rank} has no bias"
            costs = analysis.cost(nodes), analysis.linear_cost(linear) + analysis.cost(kept)
            yield propose(self.name, analysis, nodes, linear.name, reason or costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The linear operator with scaled weights and a shifted bias."""
        anchor, *chain = (analysis.nodes[name] for name in candidate.site.nodes)
        linear = analysis.linear(anchor)
        assert linear is not None
        scale, shift = _compose(analysis, linear, chain)
        bias = linear.bias()
        builder = Builder(linear.dtype)
        # Of large kernels no wider copy is made, where the type has float64's range for all that is a weight.
        wide = np.dtype(np.float64) if linear.dtype.itemsize < 4 else linear.dtype
        y = builder.linear(
            linear.form,
            linear.x,
            algebra.scale_outputs(linear.stored_weight(), linear.alpha * scale, wide),
            shift if bias is None else scale * bias + shift,
            rank=linear.rank,
            attributes=attributes_of(linear.node) if linear.obstacle else None,
        )
        for node in _carriers(analysis, linear, chain):
            others = [None if value is None else value.name for value in node.inputs[1:]]
            y = builder.node(node.op_type, [y, *others], attributes_of(node), f"/{node.op_type}")
        return builder.replacement({chain[-1].outputs[0].name or "": y})


def _operators(linear: Linear, shift: Array) -> int:
    """Number of operators that the folded linear operator needs."""
    return 2 if linear.op == "MatMul" and linear.rank != 2 and np.any(shift) else 1


def _chain(analysis: Analysis, linear: Linear) -> tuple[list[ir.Node], str]:
    """The operators behind a linear one up to the last affine one, and why the next one is not in it."""
    chain: list[ir.Node] = []
    carriers: list[ir.Node] = []
    end, value, reason = 0, linear.node.outputs[0], ""
    while True:
        readers = analysis.consumers(value)
        node = analysis.sole_consumer(value)
        if node is None:
            if not carriers and any(reader.op_type == "BatchNormalization" for reader in readers):
                reason = f"{value.name} is read elsewhere too, or is an output of the graph"
            break
        if node.graph is not linear.node.graph:
            break
        found = _read(analysis, linear, node, value)
        if isinstance(found, Affine):
            if any(affine.commutes(analysis, carrier, found) for carrier in carriers):
                break
            end = len(chain) + 1
        elif _may_carry(analysis, node, value):
            carriers += [] if is_passthrough(analysis, node) else [node]
        else:
            reason = "" if carriers else found
            break
        chain.append(node)
        value = node.outputs[0]
    return chain[:end], reason


def _may_carry(analysis: Analysis, node: ir.Node, value: ir.Value) -> bool:
    """Whether some affine operator behind the node can be moved in front of it."""
    if node.inputs[0] is not value or any(other is value for other in node.inputs[1:]):
        return False
    return not affine.commutes(analysis, node, Affine(*(np.full((1, 1, 1), v) for v in (1.0, 0.0))))


def _read(analysis: Analysis, linear: Linear, node: ir.Node, value: ir.Value) -> Affine | str:
    """What an operator does to ``value``, whose channels are those of the linear operator's output."""
    axis, channels = linear.channel_axis, linear.out_channels
    if channels is None:
        return ""
    return affine.read(analysis, node, value, _output_shape(linear), axis)


def _output_shape(linear: Linear) -> Shape | None:
    """Rank and channels, which the operators behind it that are looked at keep."""
    if linear.rank is None or linear.channel_axis is None:
        return None
    sizes: list[int | None] = [None] * linear.rank
    sizes[linear.channel_axis] = linear.out_channels
    return tuple(sizes)


def _affines(analysis: Analysis, linear: Linear, chain: Sequence[ir.Node]) -> list[Affine | None]:
    """What each operator of a chain does; None for those that carry."""
    values = [linear.node.outputs[0], *(node.outputs[0] for node in chain)]
    found = (_read(analysis, linear, node, value) for node, value in zip(chain, values, strict=False))
    return [each if isinstance(each, Affine) else None for each in found]


def _carriers(analysis: Analysis, linear: Linear, chain: Sequence[ir.Node]) -> list[ir.Node]:
    """The operators of a chain that stay."""
    affines = _affines(analysis, linear, chain)
    return [
        node
        for node, found in zip(chain, affines, strict=True)
        if found is None and not is_passthrough(analysis, node)
    ]


def _compose(analysis: Analysis, linear: Linear, chain: Sequence[ir.Node]) -> tuple[Array, Array]:
    """Scale and shift [out] of a whole chain."""
    channels, axis = linear.out_channels or 1, linear.channel_axis
    assert axis is not None
    scale, shift = np.ones(channels), np.zeros(channels)
    for found in _affines(analysis, linear, chain):
        if found is not None:
            ours = [affine.per_channel(array, axis, channels) for array in (found.scale, found.shift)]
            assert ours[0] is not None and ours[1] is not None
            scale, shift = ours[0] * scale, ours[0] * shift + ours[1]
    return scale, shift
