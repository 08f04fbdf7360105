"""A region of a graph with fewer channels: what it costs, and the operators that take its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import time_model
from graphopt.analysis.linear import linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels import channels
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.channel_roles import Cat, ChannelRole, Flat, Lin, Own, View, constant_slice
from graphopt.rewrites.patterns.common import attributes_of
from graphopt.rewrites.patterns.slicing import add_slice
from graphopt.rewrites.pruning.liveness import Index, Liveness
from graphopt.types import Array, Cost, Replacement

ELEMENT_BYTES = 4
"""Bytes of an element of a map, for the time model: derived, of float32."""


class NarrowedRegion:
    """What takes a region's place.

    Args:
        analysis: the snapshot.
        found: its channels.
        nodes: the region's operators, in the graph's order.
        dtype: float type of the weights; None only counts and reads no weights.

    Attributes:
        cost: of the new operators.
        operators: their number.
    """

    def __init__(
        self,
        analysis: Analysis,
        found: Liveness,
        nodes: Sequence[ir.Node],
        dtype: np.dtype[np.floating] | None,
    ) -> None:
        self._analysis = analysis
        self._found = found
        self._nodes = nodes
        self._reads = dtype is not None
        self._builder = Builder(dtype or np.dtype(np.float32))
        self._names: dict[ir.Value, str] = {}
        self.cost = Cost(0)
        self.operators = 0
        for node in nodes:
            role = found.roles.get(node)
            assert role is not None
            self._add(node, role)

    def replacement(self) -> Replacement:
        """The new operators, in place of the region's values that stay whole."""
        outputs = {
            output.name or "": self._names[output]
            for node in self._nodes
            for output in node.outputs
            if output in self._names and output not in self._found.keep
        }
        return self._builder.replacement(outputs)

    def _add(self, node: ir.Node, role: ChannelRole) -> None:
        if isinstance(role, View):
            for output, index in role.parts.items():
                if self._found.mask(output).any():
                    self._names[output] = self._view(node, output, index)
            return
        y = node.outputs[0]
        if not self._found.mask(y).any():
            return
        if isinstance(role, Lin):
            self._names[y] = self._linear(node, role)
        elif isinstance(role, Cat):
            self._names[y] = self._concat(node, role)
        elif isinstance(role, Flat):
            self._spend(y)
            self._names[y] = self._builder.node(
                "Flatten", [self._name(node.inputs[0])], {"axis": 1}, "/Flatten"
            )
        else:
            self._names[y] = self._own(node, role)

    def _name(self, value: ir.Value | None) -> str | None:
        """The name of what takes a value's place; of a constant map, of the channels that stay."""
        if value is None or value in self._names:
            return None if value is None else self._names[value]
        constant = self._analysis.constant(value) if value in self._found.keep else None
        if constant is None:
            return value.name or ""
        self._names[value] = self._constant(constant, self._found.roles.axis[value], self._found.kept(value))
        return self._names[value]

    # ------------------------------------------------------------ the five kinds

    def _linear(self, node: ir.Node, role: Lin) -> str:
        linear, found, x, y = role.linear, self._found, node.inputs[0], node.outputs[0]
        assert x is not None
        rows = found.kept(y)
        source = self._name(x) or ""
        if linear.group == 1:
            columns, group = found.columns(node), 1
            source = self._select(source, x, found.kept(x), columns)
            per_group = len(columns)
        else:
            outputs, inputs = found.mask(y), found.mask(x)
            group = int(outputs.reshape(linear.group, -1).any(axis=1).sum())
            per_group = int(inputs.sum()) // group
        form = replace(linear.form, group=group)
        shape = (len(rows), per_group, *linear.kernel)
        has_bias = linear.bias_elements > 0
        self.cost += linear_cost(form, shape, self._analysis.shape(x), linear.itemsize, has_bias)
        self.operators += 1
        if not self._reads:
            return ""
        weight, bias = self._weights(node, role, rows)
        return self._builder.linear(form, source, weight, bias, rank=linear.rank)

    def _weights(self, node: ir.Node, role: Lin, rows: Index) -> tuple[Array, Array | None]:
        linear, found, x, y = role.linear, self._found, node.inputs[0], node.outputs[0]
        assert x is not None
        weight, bias = linear.weight(), linear.bias()
        narrow: Array
        shift: Array
        if linear.group == 1:
            columns = found.columns(node)
            shift = channels.folded_bias(weight, bias, columns, found.known(x), padded=role.padded)[rows]
            narrow = channels.narrowed(weight, rows, columns, found.readings[node])
        else:
            narrow, _ = channels.narrowed_groups(weight, found.mask(y), found.mask(x), linear.group)
            shift = np.zeros(len(rows)) if bias is None else bias[rows]
        constant = found.known(y).constant[rows]
        known = ~np.isnan(constant)
        narrow = np.where(known.reshape(-1, *(1,) * (narrow.ndim - 1)), 0.0, narrow)
        return narrow, np.where(known, constant, shift)

    def _own(self, node: ir.Node, role: Own) -> str:
        y = node.outputs[0]
        kept, inputs = self._found.kept(y), list[str | None]()
        for index, value in enumerate(node.inputs):
            constant = self._analysis.constant(value)
            if index in role.constants and constant is not None and len(kept) < self._found.known(y).channels:
                inputs.append(self._constant(constant, role.constants[index], kept))
            else:
                inputs.append(self._name(value))
        self._spend(y)
        return self._builder.node(node.op_type, inputs, attributes_of(node) or {}, f"/{node.op_type}")

    def _constant(self, array: npt.NDArray[np.generic], axis: int, kept: Index) -> str:
        part = constant_slice(array, axis, kept)
        self.cost += Cost(0, part.size, part.nbytes)
        return self._builder.constant(part, "part", keep_type=True)

    def _concat(self, node: ir.Node, role: Cat) -> str:
        found, parts = self._found, list[str]()
        for value in role.values:
            if found.mask(value).any():
                parts.append(self._name(value) or "")
        if len(parts) == 1:
            return parts[0]
        self._spend(node.outputs[0])
        return self._builder.node("Concat", parts, {"axis": found.roles.axis[node.outputs[0]]}, "/Concat")

    def _view(self, node: ir.Node, output: ir.Value, index: Index) -> str:
        x = node.inputs[0]
        assert x is not None
        return self._select(self._name(x) or "", x, self._found.kept(x), index[self._found.kept(output)])

    # ------------------------------------------------------------ selecting and counting

    def _select(self, name: str, value: ir.Value, there: Index, wanted: Index) -> str:
        """The wanted channels of a value of which some are there; itself where those are all, in order."""
        if np.array_equal(there, wanted):
            return name
        axis, shape = self._found.roles.axis[value], self._analysis.shape(value) or ()
        position = np.searchsorted(there, wanted)
        self._spend(value, len(wanted))
        first, count = int(position[0]), len(position)
        if np.array_equal(position, np.arange(first, first + count)):
            return add_slice(
                self._builder, self._analysis, name, {axis: [first, first + count, 1]}, len(shape)
            )
        index = self._builder.constant(position.astype(np.int64), "channels")
        return self._builder.node("Gather", [name, index], {"axis": axis}, "/channels")

    def _spend(self, value: ir.Value, kept: int | None = None) -> None:
        """Counts an operator that is not linear, which makes the kept channels of a value."""
        shape, total = self._analysis.shape(value) or (), self._found.known(value).channels
        kept = len(self._found.kept(value)) if kept is None else kept
        moved = ELEMENT_BYTES * math.prod(n or 0 for n in shape) * kept // total
        self.cost += Cost(0, 0, 0, moved, time_model.seconds(0, 1, 1, 1, 2 * moved))
        self.operators += 1
