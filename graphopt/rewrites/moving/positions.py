"""Which positions of every map of a model are read by anything, and which ones it is worth to compute alone.

Operators fall into four kinds. A *window* (convolution, pool) can make any positions of its output by itself.
A *pointwise* operator (activations, sums, Concat along the channels) has the positions of its inputs. A
*sample* (strided or cropping Slice, negative Pad) reads some positions. All others read and make everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.model.traversal import topological
from graphopt.numerics.kernels.lattice import EVERYTHING, compose, composes, hull
from graphopt.rewrites.patterns.least_sizes import LeastSizes
from graphopt.rewrites.patterns.position_roles import Grid, Pointwise, PositionRole, Sample, Windowed, role_of


class Positions:
    """What is read, and what it pays to make, of each value; everything where nothing is noted.

    Args:
        analysis: a snapshot of the model.

    Attributes:
        roles: the kinds of the operators that are not opaque.
        read: what the readers of a value need together.
        made: what is made when everything that can be made smaller is.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self.roles: dict[ir.Node, PositionRole] = {}
        self.read: dict[ir.Value, Grid] = {}
        self.made: dict[ir.Value, Grid] = {}
        graphs = dict.fromkeys(node.graph for node in analysis.nodes.values())
        self.order: list[ir.Node] = []
        for graph in graphs:
            assert isinstance(graph, ir.Graph)
            nodes = topological(graph)
            for node in nodes:
                role = role_of(analysis, node)
                if role is not None:
                    self.roles[node] = role
            for node in reversed(nodes):
                self._collect(node)
            for node in nodes:
                self._decide(node)
            self.order += nodes

    def sizes(self, value: ir.Value) -> tuple[int | None, ...]:
        """The sizes of a map's spatial axes as far as they hold for every run."""
        return (self._analysis.fixed_shape(value) or ())[2:]

    def grid(self, value: ir.Value) -> Grid:
        """The positions of a value that are made."""
        return self.made.get(value) or (EVERYTHING,) * len(self.sizes(value))

    def sampled(self, node: ir.Node) -> Grid:
        """The positions of a sample's input that it has to hand on."""
        role, x = self.roles[node], node.inputs[0]
        assert isinstance(role, Sample) and x is not None
        inner = self.grid(node.outputs[0])
        return tuple(compose(*axis) for axis in zip(role.grid, inner, self.sizes(x), strict=True))

    def is_changed(self, node: ir.Node) -> bool:
        """Whether the operator reads or makes fewer positions than before."""
        role = self.roles.get(node)
        if role is None:
            return False
        made = self.made.get(node.outputs[0]) is not None
        return made if isinstance(role, Pointwise) else made or self.made.get(node.inputs[0]) is not None  # type: ignore[arg-type]

    def followed(self, node: ir.Node) -> Iterator[tuple[ir.Value, Grid]]:
        """The inputs of a pointwise operator that have positions of their own, and those needed."""
        role = self.roles[node]
        assert isinstance(role, Pointwise)
        grid = self.grid(node.outputs[0])
        for index, axes in role.follows.items():
            value = node.inputs[index]
            assert value is not None
            if any(axes):
                yield value, _where(grid, axes)

    # ------------------------------------------------------------ what is read, from the outputs up

    def _collect(self, node: ir.Node) -> None:
        role = self.roles.get(node)
        wanted = self._wanted(node.outputs[0]) if role is not None else None
        if role is None or wanted is None:
            for value in node.inputs:
                self._add(value, None)
            return
        x = node.inputs[0]
        assert x is not None
        if isinstance(role, Pointwise):
            for index, value in enumerate(node.inputs):
                axes = role.follows.get(index)
                self._add(value, None if axes is None else _where(wanted, axes))
            return
        if isinstance(role, Windowed):
            wanted = self.read[node.outputs[0]] = self._within(node, role, wanted)
            each = zip(role.windows, wanted, self.sizes(x), strict=True)
            self._add(x, tuple(window.reads(grid, size) for window, grid, size in each))
        else:
            pairs = list(zip(role.grid, wanted, self.sizes(x), strict=True))
            self.read[node.outputs[0]] = tuple(p[1] if composes(*p) else EVERYTHING for p in pairs)
            self._add(x, tuple(compose(*p) if composes(*p) else p[0] for p in pairs))
        for value in node.inputs[1:]:
            self._add(value, None)

    def _wanted(self, value: ir.Value) -> Grid | None:
        """What the readers of a value need, all of which have been looked at; None for everything."""
        outside = any(usage.node.graph is not value.graph for usage in value.uses())
        if outside or value.is_graph_output() or not value.uses():
            self._add(value, None)
        sizes = self.sizes(value)
        if self._analysis.fixed_shape(value) is None or len(sizes) < 1:
            return None
        return self.read.get(value)

    def _within(self, node: ir.Node, role: Windowed, wanted: Grid) -> Grid:
        """The wanted outputs of a window, or all of an axis that may be too small for a crop to be moved.

        Of an axis of unknown size a crop may leave nothing, on which no convolution runs. And where padding
        is wider than the window, a crop on the other side may reach into it, which no crop of the input does.
        """
        least, sizes = self._analysis.cached(LeastSizes).of(node.outputs[0]), self.sizes(node.outputs[0])
        found = []
        for grid, window, low, size in zip(wanted, role.windows, least, sizes, strict=True):
            wide = max(window.begin, window.end) > window.dilation * (window.taps - 1) + 1
            crops = size is None and bool(grid.start or grid.tail)
            found.append(EVERYTHING if crops and (wide or low <= grid.start + grid.tail) else grid)
        return tuple(found)

    def _add(self, value: ir.Value | None, grid: Grid | None) -> None:
        if value is None:
            return
        everything = (EVERYTHING,) * len(self.sizes(value))
        if grid is None or len(grid) != len(everything):
            self.read[value] = everything
            return
        sizes = self.sizes(value)
        known = self.read.get(value)
        if known is None:
            self.read[value] = tuple(g.canonical(size) for g, size in zip(grid, sizes, strict=True))
        else:
            self.read[value] = tuple(hull(a, b, size) for a, b, size in zip(known, grid, sizes, strict=True))

    # ------------------------------------------------------------ what is made, from the inputs down

    def _decide(self, node: ir.Node) -> None:
        role, output = self.roles.get(node), node.outputs[0] if node.outputs else None
        if role is None or output is None:
            return
        wanted = self.read.get(output)
        if wanted is None or all(g == EVERYTHING for g in wanted):
            return
        if isinstance(role, Pointwise) and not any(
            any(axes) and node.inputs[index] in self.made for index, axes in role.follows.items()
        ):
            return  # none of its inputs gets smaller, so it stays whole
        self.made[output] = wanted


def _where(grid: Grid, axes: Sequence[bool]) -> Grid:
    """The grid on the axes that follow it, everything on the others."""
    return tuple(g if follows else EVERYTHING for g, follows in zip(grid, axes, strict=True))
