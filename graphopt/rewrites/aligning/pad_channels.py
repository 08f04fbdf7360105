"""Widen maps to a multiple of 4 channels where depthwise convolutions then have a blocked kernel.

What
    The channels between dense convolutions, through a whole region that shares them, are padded with copies
    of the last one, which nothing reads.

        x ─ 1x1 (58→58) ─ Relu ─ depthwise 3x3 (58) ─ 1x1 (58→58) ─ y

        x ─ 1x1 (58→60) ─ Relu ─ depthwise 3x3 (60) ─ 1x1 (60→58) ─ y

Maths
    The filters of the last channel are repeated in what makes the channels, and so are numbers a channel of
    operators on each channel by itself: the new channels equal the last one all along, so they are finite
    where that is. The convolution at the end meets them with zeros.

When it applies
    1. Weights are constant, float32, and the maps have two spatial axes.
    2. A depthwise convolution works on channels that have no blocked kernel one by one.
    3. All that makes its channels, and what is made of them, are operators on each channel by itself
       (depthwise convolutions, activations, normalisations, sums and products of maps, poolings) between
       dense convolutions. Inputs and outputs of the model, Concat, Split and the like stay as they are.
    4. The static time model expects it to be faster, changes of layout and all, and the weights of the model
       grow by little: neither a budget nor a gate asks for MACs, bytes or parameters.

Exactness
    Exact. Zeros are added to sums. A channel that overflows to infinity makes NaN of what reads its copy.

Cost
    Up to 3 channels more. Measured in onnxruntime at one thread with AVX2: a unit of 58 channels on 28x28
    takes 0.63 of its time. `prune_channels` takes the copies away only where MACs are the aim: it asks the
    same time model, so there is an end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.fusions.layout import Layout
from graphopt.analysis.groups import Groups
from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.aligning.channelwise import written
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.channel_roles import ChannelRole, Lin, Own, Roles
from graphopt.rewrites.patterns.common import UNKNOWN, joined, propose
from graphopt.types import Candidate, Cost, Rejection, Replacement


@dataclass(frozen=True)
class PadChannels(ExactRewrite):
    """Widens maps to a multiple of 4 channels for the blocked kernels of depthwise convolutions."""

    name: ClassVar[str] = "pad_channels"
    stage: ClassVar[Stage] = Stage.FINAL
    time_alone: ClassVar[bool] = True
    grows: ClassVar[bool] = True
    adds: ClassVar[bool] = True

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each region that shares channels; the reason for each one that keeps its."""
        found = analysis.cached(_Regions)
        for node, reason in found.refused.items():
            yield propose(self.name, analysis, [node], analysis.name(node), reason)
        for region in dict.fromkeys(found.by_node.values()):
            costs = _costs(analysis, region)
            yield propose(self.name, analysis, region.nodes, analysis.name(region.nodes[0]), costs)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The region's operators, with more channels."""
        region = analysis.cached(_Regions).by_node[analysis.nodes[candidate.site.nodes[0]]]
        roles, builder, names = analysis.cached(Roles), Builder(np.dtype(np.float32)), dict[ir.Value, str]()
        for node in region.nodes:
            role = roles.get(node)
            if isinstance(role, Lin):
                name = _linear(builder, role.linear, region, names)
            else:
                assert isinstance(role, Own)
                y = node.outputs[0]
                name = written(analysis, builder, node, role, region.taken(y, roles.channels(y)), names)
            names[node.outputs[0]] = name
        outputs = [node.outputs[0] for node in region.nodes if node.outputs[0] not in region.widths]
        return builder.replacement({value.name or "": names[value] for value in outputs})


class _Region(NamedTuple):
    """Operators that share channels, in the graph's order, and the new widths of the maps between them."""

    nodes: tuple[ir.Node, ...]
    pairs: tuple[tuple[ir.Value, int], ...]

    @property
    def widths(self) -> Mapping[ir.Value, int]:
        """The number of channels that each map is to have."""
        return dict(self.pairs)

    def taken(self, value: ir.Value | None, channels: int) -> npt.NDArray[np.int64]:
        """For each channel that a map is to have the one that it is."""
        width = channels if value is None else self.widths.get(value, channels)
        return np.minimum(np.arange(width), channels - 1)


class _Regions:
    """The regions of a snapshot.

    Attributes:
        by_node: the region of each operator in one.
        refused: depthwise convolutions whose channels stay, with the reason.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._roles = analysis.cached(Roles)
        self._groups = Groups[ir.Value]()
        self._fixed: dict[ir.Value, str] = {}
        self.refused: dict[ir.Node, str] = {}
        self.by_node: dict[ir.Node, _Region] = {}
        wanting = [
            linear for linear in analysis.linears if linear.op == "Conv" and _wants(linear, self._roles)
        ]
        if not wanting:
            return
        for node in analysis.nodes.values():
            self._learn(analysis, node)
        for value in self._roles.whole:
            self._fixed.setdefault(value, "they are the model's inputs or outputs, or read in a body")
        widths = dict[ir.Value, int]()
        found = {linear.node.outputs[0]: linear for linear in wanting}
        for values in self._groups.of(self._roles.axis):
            reason = next((self._fixed[value] for value in values if value in self._fixed), "")
            wants = [found[value] for value in values if value in found]
            if reason:
                self.refused.update({linear.node: f"its channels stay, since {reason}" for linear in wants})
            elif wants:
                width = -(-self._roles.channels(values[0]) // time_model.ALIGNMENT) * time_model.ALIGNMENT
                widths.update(dict.fromkeys(values, width))
        touched = [n for n in analysis.nodes.values() if not widths.keys().isdisjoint(_maps(n))]
        for nodes in joined(sorted(touched, key=analysis.position), widths):
            between = dict.fromkeys(value for node in nodes for value in _maps(node) if value in widths)
            region = _Region(tuple(nodes), tuple((value, widths[value]) for value in between))
            self.by_node.update(dict.fromkeys(nodes, region))

    def _learn(self, analysis: Analysis, node: ir.Node) -> None:
        """What an operator says of the channels of its maps: which are the same, and which have to stay."""
        role, maps = self._roles.get(node), [v for v in _maps(node) if v in self._roles.axis]
        keeps = f"{analysis.name(node)} needs them as they are"
        if isinstance(role, Lin) and role.linear.op == "Conv" and _is_blocked_kind(role.linear):
            if role.linear.group > 1:
                self._groups.join(*(value for value in (node.inputs[0], node.outputs[0]) if value))
        elif isinstance(role, Own):
            same = {node.outputs[0], *(value for _, value in role.maps(node))}
            self._groups.join(*(value for value in maps if value in same))
            others = (value for value in maps if value not in same)
            self._fixed.update(dict.fromkeys((v for v in others if analysis.constant(v) is None), keeps))
        else:
            self._fixed.update(dict.fromkeys(maps, keeps))


def _maps(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None]


def _is_blocked_kind(linear: Linear) -> bool:
    """Whether a convolution is dense or depthwise, of float32 maps of two axes."""
    depthwise = linear.depthwise and linear.in_channels == linear.out_channels
    return (linear.group == 1 or depthwise) and len(linear.kernel) == 2 and linear.dtype == np.float32


def _wants(linear: Linear, roles: Roles) -> bool:
    """Whether it is depthwise, and would have a blocked kernel with a few channels more."""
    role: ChannelRole | None = roles.get(linear.node)
    if not isinstance(role, Lin) or linear.group == 1 or not _is_blocked_kind(linear):
        return False
    return not time_model.blocked(linear.group, 1, linear.group)


# ---------------------------------------------------------------- cost


def _costs(analysis: Analysis, region: _Region) -> tuple[Cost, Cost] | str:
    """What a region costs before and after; why it stays."""
    before, after, widths = analysis.cost(region.nodes), Cost(0), region.widths
    if before.macs is None:
        return UNKNOWN
    for node in region.nodes:
        linear = analysis.linear(node)
        after += _widened(analysis, node, region) if linear is None else _linear_cost(linear, region)
    moved = _reordering(analysis, region.nodes, {}) - _reordering(analysis, region.nodes, widths)
    gained = before.seconds - after.seconds
    if min(gained, gained + moved) <= 0:
        wider, unit = after.seconds - min(moved, 0.0), 1e6
        return (
            f"with more channels it is not expected to be faster ({before.seconds * unit:.0f} → "
            f"{wider * unit:.0f} µs)"
        )
    return before, replace(after, seconds=after.seconds - min(moved, 0.0))


def _linear_cost(linear: Linear, region: _Region) -> Cost:
    x, y, shape = linear.node.inputs[0], linear.node.outputs[0], linear.input_shape
    inside = len(region.taken(x, linear.in_channels or 1))
    out = len(region.taken(y, linear.out_channels or 1))
    form = linear.form if linear.group == 1 else replace(linear.form, group=inside)
    read = None if shape is None else (shape[0], inside, *shape[2:])
    weights = (out, inside // form.group, *linear.kernel)
    cost = linear_cost(form, weights, read, linear.itemsize, bool(linear.bias_elements))
    few = form.group > 1 and inside < time_model.BLOCK  # a whole block is computed
    return replace(cost, seconds=cost.seconds * time_model.BLOCK / inside) if few else cost


def _widened(analysis: Analysis, node: ir.Node, region: _Region) -> Cost:
    """The cost of an operator on each channel by itself, with more of them."""
    cost, value = analysis.cost([node]), node.outputs[0]
    part = region.widths[value] / analysis.cached(Roles).channels(value)
    seconds = time_model.SECONDS_PER_CALL + part * (cost.seconds - time_model.SECONDS_PER_CALL)
    params, weights, made = (round(part * n) for n in (cost.params, cost.weight_bytes, cost.activation_bytes))
    return Cost(0, params, weights, made, seconds)


def _reordering(analysis: Analysis, nodes: Sequence[ir.Node], widths: Mapping[ir.Value, int]) -> float:
    """Seconds of the changes of layout between operators, with so many channels in some of their maps."""
    total = 0.0
    for value in Layout(analysis, nodes, widths).moved:
        shape = [size or 1 for size in analysis.shape(value) or ()]
        if value in widths:
            shape[1] = widths[value]
        total += time_model.reorder_seconds(np.dtype(np.float32).itemsize * int(np.prod(shape)))
    return total


# ---------------------------------------------------------------- build


def _linear(builder: Builder, linear: Linear, region: _Region, names: Mapping[ir.Value, str]) -> str:
    """A convolution with more channels on either side, or both."""
    x, y = linear.node.inputs[0], linear.node.outputs[0]
    assert x is not None
    rows, columns = region.taken(y, linear.out_channels or 1), region.taken(x, linear.in_channels or 1)
    weight, bias, form = linear.weight()[rows], linear.bias(), linear.form
    if linear.group > 1:
        form = replace(form, group=len(rows))
    else:
        weight = weight[:, columns]
        weight[:, linear.in_channels :] = 0.0
    return builder.linear(form, names.get(x, x.name or ""), weight, None if bias is None else bias[rows])
