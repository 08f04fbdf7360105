"""Which channels of every map of a model are needed, which are known, and which have to stay.

Forward, what is known: channels that are constant, channels that equal others. Backward, what is needed.
Then what stays: the needed channels, and those that operators on several maps hold in common. Operators are
of five kinds; all others need everything and make everything.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.model.traversal import topological
from graphopt.numerics.kernels import channels
from graphopt.numerics.kernels.channels import Facts, Labeller, Mask, Reading
from graphopt.rewrites.patterns.channel_roles import Cat, Flat, Lin, Own, Roles, View
from graphopt.rewrites.pruning.channel_values import facts_of
from graphopt.types import Array

Index: TypeAlias = npt.NDArray[np.int64]


class Liveness:
    """The channels of a snapshot.

    Args:
        analysis: the snapshot.

    Attributes:
        order: all operators, each after what it reads.
        place: the number of each in that order.
        roles: their kinds.
        facts: what is known of the channels of a value.
        keep: the channels of a value that stay, where that is not all.
        readings: how the convolutions without groups read their input.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._labeller = Labeller()
        self.roles = Roles(analysis)
        self.order: list[ir.Node] = []
        self.facts: dict[ir.Value, Facts] = {}
        self.readings: dict[ir.Node, Reading] = {}
        self._keep: dict[ir.Value, Mask] = {}
        self._rows: dict[ir.Node, Mask] = {}
        self._asked: dict[ir.Node, Mask] = {}
        for graph in dict.fromkeys(node.graph for node in analysis.nodes.values()):
            assert isinstance(graph, ir.Graph)
            self.order += topological(graph)
        self.place = {node: i for i, node in enumerate(self.order)}
        for node in self.order:
            self._learn(node)
        for node in reversed(self.order):
            self._need(node)
        self._settle()
        self.keep = {value: mask for value, mask in self._keep.items() if not mask.all()}

    def kept(self, value: ir.Value) -> Index:
        """The channels of a value that stay."""
        return np.flatnonzero(self._keep[value])

    def mask(self, value: ir.Value) -> Mask:
        """Whether each channel stays."""
        return self._keep[value]

    def known(self, value: ir.Value) -> Facts:
        """What is known of the channels of a value."""
        if value not in self.facts:
            constant = self._analysis.constant(value)
            count = self.roles.channels(value)
            if constant is None or constant.dtype.kind != "f":
                self.facts[value] = self._labeller.unknown(count)
            else:
                axis = self.roles.axis[value]
                rows = np.moveaxis(np.asarray(constant, np.float64), axis, 0).reshape(count, -1)
                equal = (rows == rows[:, :1]).all(axis=1)
                labels = self._labeller.of_keys([row.tobytes() for row in rows])
                self.facts[value] = Facts(np.where(equal, rows[:, 0], np.nan), labels)
        return self.facts[value]

    def columns(self, node: ir.Node) -> Index:
        """The input channels that a convolution without groups is to read, of those that stay."""
        x = node.inputs[0]
        assert x is not None
        own, kept = np.flatnonzero(self.readings[node].needed), self.kept(x)
        return own if 0 < len(own) < len(kept) else kept

    # ------------------------------------------------------------ what is known

    def _learn(self, node: ir.Node) -> None:
        role = self.roles.get(node)
        if role is None:
            return
        x = node.inputs[0]
        assert x is not None
        if isinstance(role, Lin):
            linear = role.linear
            weight, bias, padded = _weights(linear), linear.bias(), role.padded
            self.facts[node.outputs[0]] = channels.behind_kernel(
                weight, bias, linear.group, self.known(x), self._labeller, padded=padded
            )
        elif isinstance(role, View):
            for output, index in role.parts.items():
                self.facts[output] = self.known(x).at(index)
        elif isinstance(role, Cat):
            parts = [self.known(value) for value in role.values]
            self.facts[node.outputs[0]] = Facts(
                np.concatenate([p.constant for p in parts]), np.concatenate([p.labels for p in parts])
            )
        elif isinstance(role, Flat):
            given = self.known(x)
            labels = self._labeller.of_keys(
                [(label, i) for label in given.labels.tolist() for i in range(role.factor)]
            )
            self.facts[node.outputs[0]] = Facts(np.repeat(given.constant, role.factor), labels)
        else:
            maps = {index: self.known(value) for index, value in role.maps(node)}
            self.facts[node.outputs[0]] = facts_of(self._analysis, node, role, maps, self._labeller)

    # ------------------------------------------------------------ what is needed

    def _need(self, node: ir.Node) -> None:
        for output in node.outputs:
            outside = any(usage.node.graph is not output.graph for usage in output.uses())
            if output in self.roles.axis and (output.is_graph_output() or outside):
                self._add(output, None)
        role = self.roles.get(node)
        if role is None:
            for value in node.inputs:
                self._add(value, None)
            return
        if isinstance(role, Lin):
            self._need_linear(node, role)
        elif isinstance(role, View):
            for output, index in role.parts.items():
                self._add(node.inputs[0], index[self._wanted(output)])
        elif isinstance(role, Cat):
            start, wanted = 0, self._wanted(node.outputs[0])
            for value in role.values:
                count = self.roles.channels(value)
                self._add(value, np.flatnonzero(wanted[start : start + count]))
                start += count
        elif isinstance(role, Flat):
            features = self._wanted(node.outputs[0]).reshape(-1, role.factor)
            self._add(node.inputs[0], np.flatnonzero(features.any(axis=1)))
        else:
            kept = np.flatnonzero(self._wanted(node.outputs[0]))
            followed = dict(role.maps(node))
            for number, value in enumerate(node.inputs):
                self._add(value, kept if number in followed else None)

    def _need_linear(self, node: ir.Node, role: Lin) -> None:
        for value in node.inputs[1:]:
            self._add(value, None)
        self._add(node.inputs[0], np.flatnonzero(self._read(node, role)))

    def _read(self, node: ir.Node, role: Lin) -> Mask:
        """The input channels that the output channels needed so far ask for."""
        x, linear, y = node.inputs[0], role.linear, node.outputs[0]
        assert x is not None
        rows = self._wanted(y) & np.isnan(self.known(y).constant)
        known = self._rows.get(node)
        if known is not None and np.array_equal(known, rows):
            return self._asked[node]
        weight = _weights(linear)
        if linear.group == 1:
            self.readings[node] = channels.reading(weight, rows, self.known(x), padded=role.padded)
            asked = self.readings[node].needed
        else:
            used = weight.reshape(*weight.shape[:2], -1).any(axis=2) & rows[:, None]
            blocks = used.reshape(linear.group, -1, used.shape[1])
            asked = np.asarray(blocks.any(axis=1)).reshape(-1)
        self._rows[node], self._asked[node] = rows, asked
        return asked

    def _wanted(self, value: ir.Value) -> Mask:
        if value not in self._keep:
            self._keep[value] = np.zeros(self.roles.channels(value), np.bool_)
        return self._keep[value]

    def _add(self, value: ir.Value | None, needed: Index | None) -> None:
        if value is None or value not in self.roles.axis:
            return
        if needed is None or value in self.roles.whole:
            self._wanted(value)[:] = True
        else:
            self._wanted(value)[needed] = True

    # ------------------------------------------------------------ what stays

    def _settle(self) -> None:
        """Lets operators on several maps agree, until they do."""
        for value in self.roles.axis:
            self._wanted(value)
        pending = deque(node for node in self.order if self.roles.get(node) is not None)
        waiting = set(pending)
        while pending:
            node = pending.popleft()
            waiting.discard(node)
            for value in self._agree(node):
                near = [usage.node for usage in value.uses()]
                producer = value.producer()
                for other in (*near, *([producer] if producer is not None else [])):
                    if other not in waiting and self.roles.get(other) is not None:
                        waiting.add(other)
                        pending.append(other)

    def _agree(self, node: ir.Node) -> list[ir.Value]:
        """Makes the channels around one operator fit each other; returns the values that grew."""
        role, grown = self.roles.get(node), list[ir.Value]()
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None

        def grow(value: ir.Value, mask: Mask) -> None:
            now = self._keep[value]
            if value in self.roles.whole:
                mask = np.ones_like(mask)
            if (mask & ~now).any():
                self._keep[value] = now | mask
                grown.append(value)

        if isinstance(role, Lin):
            grow(x, self._read(node, role))
            if role.linear.group > 1:
                outputs, inputs = channels.even_groups(self._keep[y], self._keep[x], role.linear.group)
                grow(x, inputs)
                grow(y, outputs)
                grow(x, self._read(node, role))
            elif self._keep[y].any() and not self._keep[x].any():
                grow(x, np.arange(len(self._keep[x])) == 0)
        elif isinstance(role, View):
            for output, index in role.parts.items():
                mask = np.zeros_like(self._keep[x])
                mask[index[self._keep[output]]] = True
                grow(x, mask)
        elif isinstance(role, Cat):
            start = 0
            whole = self._keep[y].copy()
            for value in role.values:
                stop = start + len(self._keep[value])
                grow(value, whole[start:stop])
                whole[start:stop] |= self._keep[value]
                start = stop
            grow(y, whole)
        elif isinstance(role, Flat):
            mask = self._keep[y].reshape(-1, role.factor).any(axis=1) | self._keep[x]
            grow(x, mask)
            grow(y, np.repeat(self._keep[x], role.factor))
        elif isinstance(role, Own):
            values = [y, *(value for _, value in role.maps(node))]
            mask = np.logical_or.reduce([self._keep[value] for value in values])
            for value in values:
                grow(value, mask)
        return grown


def witnesses(found: Liveness, nodes: list[ir.Node]) -> list[ir.Node]:
    """The operators outside a region that make what it reads constant, or equal: they belong to its proof."""
    seen, pending, result = set(nodes), list(nodes), list[ir.Node]()
    while pending:
        for value in pending.pop().inputs:
            producer = value.producer() if value is not None else None
            if value is None or producer is None or producer in seen or found.roles.get(producer) is None:
                continue
            if value in found.facts and not found.facts[value].plain:
                seen.add(producer)
                pending.append(producer)
                result.append(producer)
    return [*result, *_makers_of_equals(found, [*nodes, *result])]


def _makers_of_equals(found: Liveness, nodes: list[ir.Node]) -> list[ir.Node]:
    """The operators through which different values that a region reads come to hold equal channels."""
    inside = set(nodes)
    reads = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v in found.facts)
    makers = {value: value.producer() for value in reads}
    made = [value for value, node in makers.items() if node is not None and node not in inside]
    made.sort(key=lambda value: found.place[makers[value]], reverse=True)  # type: ignore[index]
    carriers: dict[int, list[ir.Value]] = {}
    for value in [*made, *(value for value, node in makers.items() if node is None)]:
        for label in found.facts[value].labels.tolist():
            if value not in carriers.setdefault(label, []):
                carriers[label].append(value)
    result: dict[ir.Node, None] = {}
    for label, values in carriers.items():
        reached = set[ir.Value]()
        for value in values if len(values) > 1 else ():  # the last ones first
            pending = [] if value in reached else [value]
            while pending:
                producer = pending.pop().producer()
                if producer is None or found.roles.get(producer) is None:
                    continue
                result[producer] = None
                sources = [v for v in producer.inputs if v in found.facts and label in found.facts[v].labels]
                reached.update(sources)
                pending += [source for source in sources if source not in values]
    return [node for node in result if node not in inside]


def _weights(linear: Linear) -> Array:
    """The weights [out, in/group, *kernel], as they are stored where that is their layout."""
    return linear.stored_weight() if linear.alpha == 1 else linear.weight()
