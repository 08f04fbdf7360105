"""Fold BatchNormalization and per-channel affine operators into the linear operator before them.

What
    A BatchNormalization in inference mode, or a Mul, Add, Sub, Div or Neg by a constant per channel, behind a
    Conv, ConvTranspose, Gemm or MatMul goes into its weights and bias; a whole chain of them at once.

        x ─ Conv(W, b) ─ BatchNormalization ─ Mul(c) ─ Add(d) ─ y        x ─ Conv(s·W, s·b + t) ─ y

Maths
    Each such operator is y ↦ s·y + t with one s and one t a channel. For BatchNormalization
    s = γ / √(σ² + ε) and t = β − s·μ. A chain composes: (s₂, t₂) ∘ (s₁, t₁) = (s₂·s₁, s₂·t₁ + t₂).
    Then s·(W x + b) + t = (s·W) x + (s·b + t).

When it applies
    1. The linear operator's weights are constants, and nobody else reads its output or a value in between.
    2. The constant broadcasts along the operator's output channels and nothing else.
    3. BatchNormalization is in inference mode and its channel axis is the operator's output axis, which for
       a MatMul of rank 3 it is not.
    4. The result has fewer operators: a MatMul has no bias, so a shift behind it folds only at rank 2 (Gemm).
    Identity and Dropout in inference mode may stand in between.

Exactness
    Exact. Scale and shift are computed in float64 and rounded once.

Cost
    Same MACs; one pass over the activations less for each operator that goes.

References:
    Ioffe and Szegedy 2015, "Batch Normalization", section 3.1 (inference as a linear transform).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import kernel
from graphopt.analysis import Analysis
from graphopt.conv import Builder, Linear
from graphopt.core import Array, Candidate, Exactness, Rejection, Replacement
from graphopt.lowrank import Moments
from graphopt.rewrites.common import is_passthrough, site

ELEMENTWISE = frozenset({"Mul", "Add", "Sub", "Div", "Neg"})


@dataclass(frozen=True)
class FoldAffine:
    """Folds BatchNormalization and per-channel affine operators into the linear operator before them."""

    name: ClassVar[str] = "fold_affine"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each linear operator that affine operators follow."""
        for linear in analysis.linears:
            chain, reason = _chain(analysis, linear)
            if not chain:
                if reason:
                    yield Rejection(self.name, site(analysis, [linear.node]), reason)
                continue
            nodes = [linear.node, *chain]
            place = site(analysis, nodes)
            if linear.obstacle:
                yield Rejection(self.name, place, f"{linear.name}: {linear.obstacle}")
                continue
            added = _operators(linear, _compose(analysis, linear, chain)[1])
            if added >= len(nodes):
                yield Rejection(
                    self.name, place, f"{linear.name}: a MatMul of rank {linear.rank} has no bias"
                )
                continue
            yield Candidate(self.name, place, analysis.cost(nodes), analysis.linear_cost(linear))

    def build(
        self, analysis: Analysis, candidate: Candidate, statistics: Mapping[str, Moments] | None = None
    ) -> Replacement:
        """The linear operator with scaled weights and a shifted bias."""
        anchor, *chain = (analysis.nodes[name] for name in candidate.site.nodes)
        linear = analysis.linear(anchor)
        assert linear is not None
        scale, shift = _compose(analysis, linear, chain)
        bias = linear.bias()
        builder = Builder(linear.dtype)
        y = builder.linear(
            linear.form,
            linear.x,
            kernel.scale_outputs(linear.weight(), scale),
            shift if bias is None else scale * bias + shift,
            rank=linear.rank,
        )
        return builder.replacement({chain[-1].outputs[0].name or "": y})


def _operators(linear: Linear, shift: Array) -> int:
    """Number of operators that the folded result needs."""
    return 2 if linear.op == "MatMul" and linear.rank != 2 and np.any(shift) else 1


def _chain(analysis: Analysis, linear: Linear) -> tuple[list[ir.Node], str]:
    """The operators behind a linear one up to the last affine one, and why the next one is not in it."""
    chain: list[ir.Node] = []
    end, value, reason = 0, linear.node.outputs[0], ""
    while True:
        readers = analysis.consumers(value)
        node = analysis.sole_consumer(value)
        if node is None:
            if any(reader.op_type == "BatchNormalization" for reader in readers):
                reason = f"{value.name} is read elsewhere too, or is an output of the graph"
            break
        if node.graph is not linear.node.graph:
            break
        if not is_passthrough(analysis, node):
            affine = _affine(analysis, linear, node, value)
            if isinstance(affine, str):
                reason = affine
                break
            end = len(chain) + 1
        chain.append(node)
        value = node.outputs[0]
    return chain[:end], reason


def _compose(analysis: Analysis, linear: Linear, chain: list[ir.Node]) -> tuple[Array, Array]:
    """Scale and shift [out] of a whole chain."""
    channels = linear.out_channels or 1
    scale, shift = np.ones(channels), np.zeros(channels)
    value = linear.node.outputs[0]
    for node in chain:
        if not is_passthrough(analysis, node):
            affine = _affine(analysis, linear, node, value)
            assert not isinstance(affine, str), affine
            scale, shift = affine[0] * scale, affine[0] * shift + affine[1]
        value = node.outputs[0]
    return scale, shift


def _affine(analysis: Analysis, linear: Linear, node: ir.Node, value: ir.Value) -> tuple[Array, Array] | str:
    """Scale and shift [out] of an operator on ``value``; else why it has none ("" when it is no anchor)."""
    name, channels = analysis.name(node), linear.out_channels
    if channels is None:
        return ""
    if node.op_type == "BatchNormalization":
        return _batch_normalization(analysis, linear, node)
    if node.op_type not in ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return ""
    if node.op_type == "Neg":
        return -np.ones(channels), np.zeros(channels)
    if node.inputs[0] is node.inputs[1]:
        return f"{name}: {value.name} meets itself, which is no affine operator"
    first = node.inputs[0] is value
    other = node.inputs[1] if first else node.inputs[0]
    constant = analysis.constant(other)
    if constant is None:
        return ""
    per_channel = _per_channel(linear, np.asarray(constant, dtype=np.float64))
    if isinstance(per_channel, str):
        return f"{name}: {other.name if other is not None else ''} {per_channel}"
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op_type:
        case "Mul":
            return per_channel, zero
        case "Add":
            return one, per_channel
        case "Sub":
            return (one, -per_channel) if first else (-one, per_channel)
        case _:
            if not first:
                return f"{name}: a constant divided by {value.name} is no affine operator"
            if not np.all(per_channel):
                return f"{name}: division by zero"
            return 1.0 / per_channel, zero


def _per_channel(linear: Linear, constant: Array) -> Array | str:
    """The constant as one value a channel [out], or what else it does."""
    rank, axis, channels = linear.rank, linear.channel_axis, linear.out_channels
    assert channels is not None
    if constant.size == 1 and (rank is not None and constant.ndim <= rank):
        return np.full(channels, constant.reshape(()))
    if rank is None or axis is None:
        return "meets an output of unknown rank"
    if constant.ndim > rank:
        return f"has rank {constant.ndim}, which raises the output's rank {rank}"
    shape = (1,) * (rank - constant.ndim) + constant.shape
    wide = [i for i, size in enumerate(shape) if size != 1 and i != axis]
    if wide:
        return f"of shape {list(constant.shape)} varies along axis {wide[0]}, not only along the channels"
    if shape[axis] != channels:
        return f"of shape {list(constant.shape)} does not fit {channels} channels"
    return constant.reshape(-1)


def _batch_normalization(analysis: Analysis, linear: Linear, node: ir.Node) -> tuple[Array, Array] | str:
    name = analysis.name(node)
    training, spatial = node.attributes.get("training_mode"), node.attributes.get("spatial")
    if training is not None and training.as_int():
        return f"{name}: training_mode=1, so it normalises by the batch's own statistics"
    if spatial is not None and not spatial.as_int():
        return f"{name}: spatial=0, so it normalises each position apart"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return f"{name}: its statistics are read"
    if linear.channel_axis != 1:
        return (
            f"{name}: it normalises axis 1, the channels of {linear.name} are on axis {linear.channel_axis}"
        )
    constants = [analysis.constant(value) for value in node.inputs[1:5]]
    if any(constant is None for constant in constants):
        return f"{name}: its parameters are no constants"
    gamma, beta, mean, variance = (np.asarray(c, dtype=np.float64) for c in constants)
    epsilon = node.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    if scale.shape != (linear.out_channels,) or not np.all(np.isfinite(scale)):
        return (
            f"{name}: its parameters do not give one finite scale for each of {linear.out_channels} channels"
        )
    return scale, beta - scale * mean
