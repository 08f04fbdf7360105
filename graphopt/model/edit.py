"""The only code that changes a graph: fresh names, insertion, graph outputs, what dies, and the stamp.

Every function takes a model that the caller owns (a clone) and leaves it valid. No rewrite is known here.
`become` alone changes a model that somebody else holds, who asked for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import GraphOptError
from graphopt.model.carried import SparseTensor
from graphopt.model.constant_nodes import constant_tensor, initializer, is_equal
from graphopt.model.defaults import forced
from graphopt.model.kernels import Kernels
from graphopt.model.names import Fresh, graph_paths, node_names
from graphopt.model.serde import new_attributes
from graphopt.model.traversal import is_sorted, nested
from graphopt.types import Candidate, Change, Dims, NewNode, Replacement

STAMP_SOURCE = "graphopt.from"
"""Metadata key of a new node: the names of the nodes that it came from."""
STAMP_REWRITE = "graphopt.rewrite"
"""Metadata key of a new node: the rewrite that made it."""


def apply(model: ir.Model, changes: Sequence[Change]) -> ir.Model:
    """A copy of the model in which each replacement stands in its candidate's place.

    Args:
        model: the model, which stays as it is.
        changes: candidates whose sites share no node, with what replaces them.

    Returns:
        A new model; weights that did not change are shared with the old one.
    """
    # In a newer version an initializer that stayed an input would be no constant any more.
    clone = freeze(model) if forced(model) else model.clone()
    editor = _Editor(clone)
    for candidate, replacement in changes:
        editor.replace(candidate, replacement)
    editor.finish()
    return clone


def freeze(model: ir.Model) -> ir.Model:
    """A copy in which initializers are no graph inputs any more, so that no caller can override them."""
    clone = model.clone()
    kept = [value for value in clone.graph.inputs if not value.is_initializer()]
    clone.graph.inputs.clear()
    clone.graph.inputs.extend(kept)
    clone.ir_version = max(clone.ir_version or 0, 4)
    return clone


def exposed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy with values of the outermost graph as outputs, behind its own."""
    clone = model.clone()
    made = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs.extend(made[name] for name in names)
    return clone


def concealed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy in which these are no outputs any more, without what only they needed."""
    clone = model.clone()
    hidden = [value for value in clone.graph.outputs if value.name in names]
    kept = [value for value in clone.graph.outputs if value.name not in names]
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(kept)
    editor = _Editor(clone)
    editor.prune(hidden)
    editor.finish()
    return clone


def become(model: ir.Model, rewritten: ir.Model, loaded: ir.Model) -> None:
    """Gives a model the content of another one, in place; model and graph stay the same objects.

    Weights that no rewrite touched stay the model's own tensors, so that external ones stay external.

    Args:
        model: the model to change.
        rewritten: what was made of it; it is empty afterwards.
        loaded: the copy of ``model`` that ``rewritten`` was made from.
    """
    old, new = model.graph, rewritten.graph
    kept = {
        value.const_value: old.initializers[name].const_value
        for name, value in loaded.graph.initializers.items()
        if name in old.initializers
    }
    for part in (old.inputs, old.outputs, old.initializers):
        part.clear()
    old.remove(list(old))
    inputs, outputs = list(new.inputs), list(new.outputs)
    values, nodes = list(new.initializers.values()), list(new)
    for part in (new.inputs, new.outputs, new.initializers):
        part.clear()
    new.remove(nodes)
    old.inputs.extend(inputs)
    for value in values:
        value.const_value = kept.get(value.const_value, value.const_value)
        old.register_initializer(value)
    old.extend(nodes)
    old.outputs.extend(outputs)
    old.opset_imports.update(new.opset_imports)
    for name in list(model.functions):
        if name not in rewritten.functions:
            del model.functions[name]
    model.metadata_props.update(rewritten.metadata_props)
    model.ir_version = rewritten.ir_version


def annotate(model: ir.Model, entries: Mapping[str, str]) -> None:
    """Adds metadata entries to a model; one of the same key is replaced."""
    model.metadata_props.update(entries)


def reweighed(model: ir.Model, weights: Mapping[str, npt.NDArray[np.generic]]) -> ir.Model:
    """A copy with other numbers in weights of its outermost graph.

    Args:
        model: the model, which stays as it is.
        weights: what initializers and Constant nodes hold, by name of the value.

    Returns:
        A new model; the other weights are shared with the old one.
    """
    clone = model.clone()
    held = dict(clone.graph.initializers)
    for name, array in weights.items():
        tensor = ir.Tensor(array, name=name)
        if name in held:
            held[name].const_value = tensor
    for node in clone.graph:
        made = node.outputs[0].name or "" if node.op_type == "Constant" else ""
        if made in weights:
            node.attributes.clear()
            node.attributes.add(ir.AttrTensor("value", ir.Tensor(weights[made], name=made)))
    return clone


def redeclare(shapes: Mapping[ir.Value, Dims | None]) -> None:
    """Lets values of a model declare other shapes, by number and by name; None for none."""
    for value, dims in shapes.items():
        value.shape = None if dims is None else ir.Shape(dims)


class _Editor:
    """One editing pass over a model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._graphs = dict(graph_paths(model))
        self._nodes = {name: node for node, name in node_names(model).items()}
        self.fresh = Fresh(model.graphs(), self._nodes)
        self._ports = {name: _ports(node) for name, node in self._nodes.items()}
        self._heirs: dict[ir.Value, ir.Value] = {}
        self._orphans: list[ir.Node] = []
        self._touched: set[ir.Graph] = set()
        self._loose: set[ir.Value] = set()
        self._kernels: dict[ir.Graph, Kernels[ir.Value]] = {}

    def replace(self, candidate: Candidate, replacement: Replacement) -> None:
        """Puts one replacement into its place."""
        site = candidate.site
        consumed = [self._nodes[name] for name in site.nodes]
        graph = self._graphs[site.graph]
        visible = {
            name: self._current(value) for node in site.nodes for name, value in self._ports[node].items()
        }
        local = {
            name: self._constant(graph, array, site.nodes[0], name) for name, array in _sorted(replacement)
        }
        last = _last(graph, consumed)
        made = []
        for new in replacement.nodes:
            inputs = [None if name is None else local.get(name) or visible[name] for name in new.inputs]
            node = self._node(new, new.anchor or site.nodes[0], inputs)
            stamp = new.anchor or ",".join(site.nodes)
            node.metadata_props.update({STAMP_SOURCE: stamp, STAMP_REWRITE: candidate.rewrite})
            local.update(zip(new.outputs, node.outputs, strict=True))
            graph.insert_before(last, node)
            made.append((new, node))
        for old_name, new_name in replacement.outputs.items():
            self._redirect(
                graph, visible[old_name], local.get(new_name) or visible[new_name], new_name in local
            )
        self._remove_dead(consumed, set(consumed))
        self._orphans += (node for _, node in made)
        heirs = {new.anchor or site.nodes[0]: node for new, node in reversed(made) if not new.name}
        for name, node in heirs.items():
            if self._nodes[name].graph is None:
                _inherit(node, self._nodes[name], name)
        self._touched.add(graph)

    def _current(self, value: ir.Value) -> ir.Value:
        """What stands for a value of the model as it was, after the replacements so far."""
        while value in self._heirs:
            value = self._heirs[value]
        return value

    def _constant(self, graph: ir.Graph, array: npt.NDArray[np.generic], anchor: str, hint: str) -> ir.Value:
        """A new initializer; where the same kernel was made in this pass, that one."""
        kernels = self._kernels.setdefault(graph, Kernels())
        equal = kernels.get(array)
        if equal is not None:
            return equal
        name = self.fresh(f"{anchor}/{hint.lstrip('%')}")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
        self._loose.add(value)  # another change may drop what reads it
        kernels.put(array, value)
        return value

    def _node(self, new: NewNode, anchor: str, inputs: Sequence[ir.Value | None]) -> ir.Node:
        outputs = [ir.Value(name=self.fresh(f"{anchor}/{name.lstrip('%')}")) for name in new.outputs]
        return ir.node(
            new.op_type,
            inputs,
            attributes=new_attributes(new),
            domain=new.domain,
            outputs=outputs,
            name=self.fresh(f"{anchor}{new.name}"),
        )

    def _redirect(self, graph: ir.Graph, old: ir.Value, new: ir.Value, made: bool) -> None:
        """Lets the readers of ``old``, the graph outputs among them, read ``new``.

        A value that was made just now takes over the old name; one that was there keeps its own, unless it
        becomes an output of the graph.
        """
        if old.is_graph_output() and (new.producer() is None or new.is_graph_output()):
            new = self._copy_of(graph, old, new)
        if (made or old.is_graph_output()) and new.producer() is not None and not new.is_graph_output():
            name = old.name
            new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
            new.metadata_props.update(old.metadata_props)
            old.name = self.fresh(f"{name}/replaced")
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self._heirs[old] = new
        self._loose.add(old)

    def _copy_of(self, graph: ir.Graph, old: ir.Value, new: ir.Value) -> ir.Value:
        """An Identity of ``new``: a graph output needs a value of its own."""
        node = ir.node("Identity", [new], name=self.fresh(f"{old.name}/identity"))
        node.outputs[0].name = self.fresh(f"{old.name}/identity_out")
        producer = old.producer()
        if producer is None:
            raise GraphOptError(f"{old.name} is no operator's output and can't be replaced")
        graph.insert_before(producer, node)
        return node.outputs[0]

    def _remove_dead(self, nodes: Iterable[ir.Node], among: set[ir.Node] | None = None) -> None:
        """Removes nodes none of whose outputs is read, and what only they read.

        Args:
            nodes: where to start.
            among: the only nodes that may go now, since later changes may start from others; None for all.
        """
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
                continue
            if any(
                a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()
            ):
                continue
            if among is not None and node not in among:
                self._orphans.append(node)
                continue
            inputs = [value for value in node.inputs if value is not None]
            node.graph.remove(node, safe=True)
            self._loose.update(inputs)
            pending.extend(producer for value in inputs if (producer := value.producer()) is not None)

    def prune(self, values: Iterable[ir.Value]) -> None:
        """Removes what makes these values, where nothing needs it."""
        self._remove_dead(node for value in values if (node := value.producer()) is not None)

    def finish(self) -> None:
        """Removes what nothing reads any more, stores Constant nodes as initializers, sorts what needs it."""
        self._remove_dead(self._orphans)
        for value in sorted(self._loose, key=lambda value: value.name or ""):
            graph = value.graph
            needed = value.uses() or value.is_graph_output() or value.is_graph_input()  # a caller may feed it
            if value.is_initializer() and not needed and graph is not None and value.name is not None:
                graph.initializers.pop(value.name, None)
        for graph in nested(self._model.graph):
            _store_constants(graph)
        for graph in self._touched:
            if not is_sorted(graph):
                graph.sort()


def _store_constants(graph: ir.Graph) -> None:
    """Puts initializers in the place of the Constant nodes of a graph.

    Those that are outputs of the graph stay, as do sparse ones. Of equal scalars and vectors the first stands
    for all; kernels keep one each, so that none is taken for shared.
    """
    known: dict[tuple[object, ...], list[tuple[ir.TensorProtocol, ir.Value]]] = {}
    for node in list(graph):
        tensor, old = constant_tensor(node), node.outputs[0] if node.outputs else None
        if tensor is None or isinstance(tensor, SparseTensor) or old is None or old.is_graph_output():
            continue
        alike = known.setdefault((tensor.dtype, tuple(tensor.shape.numpy())), [])
        new = next((value for other, value in alike if is_equal(other, tensor)), None)
        if new is None and old.uses():
            new = initializer(old, tensor)
            if tensor.shape.rank() < 2:
                alike.append((tensor, new))
            old.name = None
            graph.register_initializer(new)
        if new is not None:
            old.replace_all_uses_with(new)
        graph.remove(node, safe=True)


def _inherit(heir: ir.Node, node: ir.Node, name: str) -> None:
    """Gives a new node the name, doc string and metadata of the one in whose place it stands."""
    heir.name = name
    heir.doc_string = node.doc_string
    for key, value in node.metadata_props.items():
        heir.metadata_props.setdefault(key, value)  # its own stamp tells where it came from


def _sorted(replacement: Replacement) -> list[tuple[str, npt.NDArray[np.generic]]]:
    """Constants in the order in which the nodes read them, so that files come out the same."""
    order = dict.fromkeys(name for node in replacement.nodes for name in node.inputs if name is not None)
    order.update(dict.fromkeys(replacement.outputs.values()))
    return [(name, replacement.constants[name]) for name in order if name in replacement.constants]


def _ports(node: ir.Node) -> dict[str, ir.Value]:
    """The values that a node reads and makes, by name."""
    return {value.name or "": value for value in (*node.inputs, *node.outputs) if value is not None}


def _last(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    """The consumed node that comes last in the graph."""
    consumed = set(nodes)
    ends = [
        node
        for node in nodes
        if not any(usage.node in consumed for value in node.outputs for usage in value.uses())
    ]
    return ends[0] if len(ends) == 1 else next(node for node in reversed(graph) if node in consumed)
