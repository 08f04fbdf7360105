"""A read-only snapshot of a model: names, shapes, constants, consumers, and what is linear in normal form."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import costs, time_model
from graphopt.analysis.constants import Constants, Memory, default_opset
from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.linear import view as linear_view
from graphopt.analysis.operators import is_standard
from graphopt.analysis.shapes import inference
from graphopt.analysis.shapes.demand import demanded
from graphopt.analysis.shapes.open_sizes import window_fits
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.analysis.shapes.tensor_types import completed, contradict
from graphopt.model.names import graph_paths, node_names
from graphopt.model.traversal import nested
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.types import Array, Candidate, Cost, Shape, Totals

Made = TypeVar("Made")


class Analysis:
    """What a rewrite may know about a model.

    Args:
        model: the model; it is not changed, and must not be while the snapshot is used.
        bindings: sizes of graph inputs whose shape leaves some open, by input name.
        frozen: treat initializers that a caller may override as constants.
        known: shapes by value name that were found before, by running or by an earlier snapshot.
        statistics: of inputs, by name of the linear operator, where there are calibration inputs.
        extremes: lowest and highest value of each output channel, by name of the linear operator, likewise.
        guessed: whether nobody gave the sizes: what pays at these has to pay at others as well.
        memory: what earlier snapshots found in tensors of the model.

    Raises:
        InputError: the sizes contradict the model.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        bindings: Mapping[str, Sequence[int]] | None = None,
        frozen: bool = False,
        known: Mapping[str, Shape] | None = None,
        statistics: Mapping[str, Statistics] | None = None,
        extremes: Mapping[str, tuple[Array, Array]] | None = None,
        guessed: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.model = model
        self.guessed = guessed
        self._frozen = frozen
        self._memory = memory
        self.statistics = statistics
        self.extremes = extremes
        self.constants = Constants(model, frozen, memory=memory)
        self.sizes: Sizes = inference.infer(model, self.constants, bindings=bindings, known=known)
        self._graphs = {graph: path for path, graph in graph_paths(model)}
        self._names = node_names(model)
        self.nodes: dict[str, ir.Node] = {name: node for node, name in self._names.items()}
        self._made: dict[Callable[[Analysis], object], object] = {}
        self._whole, self._left = self, frozenset[ir.Node]()

    def cached(self, make: Callable[[Analysis], Made]) -> Made:
        """What a function or class makes of this snapshot, made once."""
        if make not in self._made:
            self._made[make] = make(self._whole)
        return cast("Made", self._made[make])

    def at(self, bindings: Mapping[str, Sequence[int]], known: Mapping[str, Shape] | None = None) -> Analysis:
        """A snapshot of the same model at other sizes of its inputs, without statistics.

        Raises:
            InputError: the sizes contradict the model.
        """
        return Analysis(self.model, bindings=bindings, frozen=self._frozen, known=known, memory=self._memory)

    def without(self, nodes: Iterable[ir.Node]) -> Analysis:
        """This snapshot with some operators left out of its lists; those that read them are as they were."""
        view = copy.copy(self)
        view._left = frozenset(nodes)
        view.nodes = {name: node for name, node in self.nodes.items() if node not in view._left}
        return view

    def holds(self, node: ir.Node) -> bool:
        """Whether the node is one of the model's."""
        return node in self._names

    def name(self, node: ir.Node) -> str:
        """The node's name: its own where that is unique, else ``<op>:<first output>``."""
        return self._names[node]

    def position(self, node: ir.Node) -> int:
        """The node's place in the order of the model."""
        return self._positions[node]

    @cached_property
    def _positions(self) -> dict[ir.Node, int]:
        return {node: i for i, node in enumerate(self._names)}

    def graph_of(self, node: ir.Node) -> str:
        """The path of the graph that holds the node."""
        assert isinstance(node.graph, ir.Graph)
        return self._graphs[node.graph]

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The value's shape at the sizes of this snapshot, as far as known."""
        return self.sizes.get(value) if value is not None else None

    def content(self, value: ir.Value) -> npt.NDArray[np.generic] | None:
        """What a value that is computed from shapes holds at the sizes of this snapshot; None for others."""
        return self.sizes.content(value)

    def likely_shape(self, value: ir.Value) -> Shape | None:
        """The value's shape at the sizes of this snapshot, completed by what its readers demand."""
        return completed(self.shape(value), self._demanded.get(value))

    @cached_property
    def _demanded(self) -> Mapping[ir.Value, Shape]:
        """What operators demand of the shapes that they read."""
        found = (demanded(graph, self.constants, self.shape) for graph in self._graphs)
        return {value: shape for each in found for value, shape in each.items()}

    @property
    def fits(self) -> bool:
        """Whether operators take the sizes that they read, as far as these are known."""
        shapes = ((self.shape(value), wanted) for value, wanted in self._demanded.items())
        if any(shape is not None and contradict(shape, wanted) for shape, wanted in shapes):
            return False
        standard = filter(is_standard, self.nodes.values())
        return all(window_fits(node, [self.shape(value) for value in node.inputs]) for node in standard)

    def fixed_shape(self, value: ir.Value | None) -> Shape | None:
        """The value's shape as far as it holds for every run, whatever sizes a caller feeds.

        The spatial sizes of one that is `disputed` do not count as known.
        """
        shape = self._fixed_sizes.get(value)
        if shape is None or not self.disputed(value):
            return shape
        return tuple(size if axis < 2 else None for axis, size in enumerate(shape))

    def fixed_content(self, value: ir.Value) -> npt.NDArray[np.generic] | None:
        """What a value that is computed from shapes holds in every run; None for others."""
        return None if self.disputed(value) else self._fixed_sizes.content(value)

    def fixed_entries(self, value: ir.Value) -> Shape | None:
        """The sizes that a value holds in every run, None for open ones; None where nothing tells any."""
        return None if self.disputed(value) else self._fixed_sizes.entries(value)

    def open_size(self, value: ir.Value, axis: int) -> str:
        """The name of the open size that a value has along an axis; "" where it is not that of one input."""
        dims = None if self.disputed(value) else self._fixed_sizes.dims(value)
        name = dims[axis] if dims is not None and axis < len(dims) else None
        given = [size for each in self.model.graph.inputs for size in self._fixed_sizes.dims(each) or ()]
        return name if isinstance(name, str) and given.count(name) == 1 else ""

    def disputed(self, value: ir.Value | None) -> bool:
        """Whether onnxruntime infers another size for the value than it makes, at every run.

        What is as large as the value can't have a size in the file, nor follow from its Shape.
        """
        return value in self._fixed_sizes.disputed

    @cached_property
    def _fixed_sizes(self) -> Sizes:
        return inference.infer(self.model, self.constants, assume_batch=None)

    @property
    def opset(self) -> int:
        """The version of the default operator domain that the model imports."""
        return default_opset(self.model)

    def constant(self, value: ir.Value | None) -> npt.NDArray[np.generic] | None:
        """The value's content when it is a constant."""
        return self.constants.array(value)

    def consumers(self, value: ir.Value) -> tuple[ir.Node, ...]:
        """The nodes that read the value, each once, in subgraphs too."""
        return tuple(dict.fromkeys(usage.node for usage in value.uses()))

    def sole_consumer(self, value: ir.Value) -> ir.Node | None:
        """The only reader of the value; None when it has several, none, or is a graph output."""
        readers = self.consumers(value)
        return readers[0] if len(readers) == 1 and not value.is_graph_output() else None

    def is_outermost(self, node: ir.Node) -> bool:
        """Whether the node is in the outermost graph, whose values a session can return."""
        return node.graph is self.model.graph

    def unsized(self) -> list[str]:
        """Values of the outermost graph that linear operators read or make, whose size is not known."""
        linear = [node for node in self.model.graph if costs.is_linear(node)]
        values = dict.fromkeys(v for node in linear for v in (*node.inputs, *node.outputs) if v is not None)
        return [v.name or "" for v in values if (shape := self.shape(v)) is None or None in shape]

    @cached_property
    def uncounted_ops(self) -> dict[str, int]:
        """Operators that do work and whose MACs are not counted, with their number."""
        return costs.uncounted(self.model)

    def linear(self, node: ir.Node | None) -> Linear | None:
        """The normal view of a Conv, ConvTranspose, Gemm or MatMul; None for any other node."""
        return self._linears.get(node) if node is not None else None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The normal views of all linear operators, in the order of the model."""
        return tuple(linear for node, linear in self._linears.items() if node not in self._left)

    @cached_property
    def _linears(self) -> dict[ir.Node, Linear]:
        views = ((node, self._view(node)) for node in self._names if costs.is_linear(node))
        return {node: linear for node, linear in views if linear is not None}

    def _view(self, node: ir.Node) -> Linear | None:
        inputs = [*node.inputs, None, None]
        return linear_view(
            node,
            name=self.name(node),
            graph=self.graph_of(node),
            constants=self.constants,
            input_shape=self.shape(inputs[0]),
            weight_shape=self.shape(inputs[1]),
            output_shape=self.shape(node.outputs[0]),
            fixed_shape=lambda: self.fixed_shape(inputs[0]),
            macs=costs.macs(node, self.shape),
            quantised=self._quantised(node),
        )

    def _quantised(self, node: ir.Node) -> bool:
        """Whether a quantising or dequantising operator feeds the node or reads it."""
        producers = (value.producer() for value in node.inputs if value is not None)
        near = [producer for producer in producers if producer is not None]
        return any(n.op_type in costs.QUANTISE for n in (*near, *self.consumers(node.outputs[0])))

    def linear_cost(self, linear: Linear) -> Cost:
        """The cost of a linear operator as it stands."""
        stored = sum(self.constants.stored_bytes(v) for v in linear.node.inputs[1:] if v is not None)
        if linear.out_channels is None or linear.in_channels is None:
            return Cost(linear.macs, linear.params, stored)
        weights = (linear.out_channels, linear.in_channels // linear.group, *linear.kernel)
        assumed = linear_cost(linear.form, weights, linear.input_shape, linear.itemsize)
        return replace(assumed, macs=linear.macs, params=linear.params, weight_bytes=stored)

    def own_cost(self, linear: Linear) -> Cost:
        """What goes away with a linear operator: its cost, less the weights that others read too."""
        total = self.linear_cost(linear)
        shared = [v for v in linear.node.inputs[1:] if v is not None and len(self.consumers(v)) > 1]
        kept = sum(self.constants.size(value) or 0 for value in shared)
        stored = total.weight_bytes - sum(map(self.constants.stored_bytes, shared))
        return replace(total, params=total.params - kept, weight_bytes=stored)

    def cost(self, nodes: Sequence[ir.Node]) -> Cost:
        """The cost of some operators as they stand; those that are not linear count no MACs."""
        total = Cost(0)
        for node in nodes:
            linear = self.linear(node)
            total += self.linear_cost(linear) if linear is not None else self._elementwise_cost(node)
        return total

    def _elementwise_cost(self, node: ir.Node) -> Cost:
        """One pass over the output, and the elements of the operator's constants."""
        shape = self.shape(node.outputs[0])
        size = math.prod(n or 0 for n in shape) if shape is not None else 0
        params = sum(self.constants.size(value) or 0 for value in node.inputs if value is not None)
        moved = 4 * size
        seconds = time_model.seconds(0, 1, 1, 1, 2 * moved)
        seconds += size * time_model.SLOW_SECONDS.get(node.op_type, 0.0)
        return Cost(0, params, 4 * params, moved, seconds)

    def _body_runs(self, node: ir.Node) -> Mapping[ir.Graph, int | None]:
        return costs.body_runs(node, self.shape, self.content)

    def runs(self, node: ir.Node) -> int | None:
        """How often one run of the model runs the node; None where that is unknown."""
        return self._runs[cast("ir.Graph", node.graph)]

    @cached_property
    def _runs(self) -> Mapping[ir.Graph, int | None]:
        found: dict[ir.Graph, int | None] = {self.model.graph: 1}
        for node in self._names:  # outer ones before inner ones
            around = found[cast("ir.Graph", node.graph)]
            for body, times in self._body_runs(node).items():
                found[body] = None if around is None or times is None else around * times
        return found

    def dearest_run(self, changed: Iterable[Candidate] = ()) -> tuple[int, frozenset[str]] | None:
        """The run of the model with the most MACs once candidates are put in; None where they are unknown.

        Of one If no run takes both branches, so that what is saved in one of them need not count.

        Args:
            changed: candidates of this snapshot.

        Returns:
            Its MACs without the candidates, and the paths of the graphs that it runs.
        """
        saved: Counter[str] = Counter()
        for candidate in changed:
            saved[candidate.site.graph] += candidate.macs_saved
        by_graph = {graph: saved[path] for graph, path in self._graphs.items()}
        found = costs.dearest_run(self.model.graph, self.shape, self.content, by_graph)
        return None if found is None else (found.macs, frozenset(self._graphs[each] for each in found.graphs))

    @property
    def uncountable(self) -> tuple[str, ...]:
        """Why MACs can't be counted that no size would tell: one clause for each function and loop."""
        functions = [f"function {name[1]!r} is not looked into" for name in costs.hidden(self.model)]
        return (*functions, *self.uncounted_loops)

    @property
    def uncounted_loops(self) -> list[str]:
        """The nodes whose bodies hold linear operators and run nobody knows how often, one clause each."""
        return [
            f"how often the body of {node.op_type} {name!r} runs is unknown"
            for name, node in self.nodes.items()
            for body, times in self._body_runs(node).items()
            if times is None and any(costs.is_linear(each) for graph in nested(body) for each in graph)
        ]

    @cached_property
    def totals(self) -> Totals:
        """The figures of the whole model."""
        views = {linear.node for linear in self.linears}
        unseen = any(costs.is_linear(node) and node not in views for node in self._names)
        counted = not unseen and not costs.hidden(self.model)
        return Totals(
            costs.total_macs(self.model.graph, self.shape, self.content) if counted else None,
            costs.params(self.model),
            costs.weight_bytes(self.model),
            len(self._names),
        )


def anchor(analysis: Analysis, candidate: Candidate) -> Linear:
    """The linear operator that a candidate's site begins with."""
    linear = analysis.linear(analysis.nodes[candidate.site.nodes[0]])
    assert linear is not None, f"{candidate.site.nodes[0]} is a linear operator where it was proposed"
    return linear
