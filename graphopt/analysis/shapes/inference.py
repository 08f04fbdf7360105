"""The shape of every value of a model, with concrete sizes wherever they follow from the inputs.

Each node is inferred by onnx's own rules, one at a time in topological order, on the sizes found so far. That
gets further than inference on a whole file: sizes that a model computes (Shape → Slice → Concat → Reshape)
are followed with their values, and the bodies of If, Loop and Scan see the values around them. Where
onnxruntime has other rules, its own are followed (`analysis.shapes.runtime_rules`).

Open sizes of the inputs are followed by their names, and so is what operators make of them
(`analysis.shapes.open_sizes`). Where an operator takes one of them at one size alone
(`analysis.shapes.agreement`), that is its size, and the model is inferred again with it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.analysis.constants import Constants, default_opset
from graphopt.analysis.evaluation import SMALL_SIZE
from graphopt.analysis.operators import AFFINE, ALIKE, is_standard
from graphopt.analysis.shapes import control_flow, onnx_rules, open_sizes
from graphopt.analysis.shapes.agreement import Demands
from graphopt.analysis.shapes.data_propagation import SIZE_RULES, Data, DataPropagation
from graphopt.analysis.shapes.inputs import BoundInputs, bind, format_shape, names_all, names_of
from graphopt.analysis.shapes.runtime_rules import RUNTIME_RULES
from graphopt.analysis.shapes.sizes import Sizes
from graphopt.analysis.shapes.tensor_types import (
    completed,
    contradict,
    dims_of,
    named,
    shape_of,
    tensor_proto,
    tensor_shape,
    tensor_type,
)
from graphopt.errors import InputError, MisfitError
from graphopt.model.constant_nodes import constant_tensor
from graphopt.model.traversal import label, reads, subgraphs, topological
from graphopt.types import Dims, Shape

_FLOAT_SIZES = frozenset({"Resize", "Upsample", "Range"})
"""The operators whose output size follows from the values of a float input."""

_LEGACY_ELEMENTWISE = (
    ALIKE | AFFINE | {"Dropout", "InstanceNormalization", "Max", "Mean", "Min", "PRelu", "Sum"}
)
"""Where onnx has no rule for them (up to opset 5), the output is as large as the first input."""


def infer(
    model: ir.Model,
    constants: Constants,
    *,
    bindings: Mapping[str, Sequence[int]] | None = None,
    assume_batch: int | None = 1,
    known: Mapping[str, Shape] | None = None,
    claims: bool = True,
) -> Sizes:
    """Find the shapes of all values of the model, including those of the subgraphs of its nodes.

    Values inside model-local functions stay unknown, and so do the outputs of operators that onnx has no
    schema for, beyond what the file declares. What the file declares is not trusted where it contradicts
    what was found for any value, and its sizes are not where those of the inputs are open.

    Args:
        model: the model; it is not changed.
        constants: its constants.
        bindings: sizes of inputs by name, which also bind the symbols of other inputs.
        assume_batch: the size of a first dimension of an input that is symbolic and not bound. None leaves it
            unknown; without bindings, the result then holds for every run of the model.
        known: shapes of values of the main graph by name, found before by running or by an earlier analysis.
            They are taken as given; where they cover all outputs of a node without subgraphs, its inputs may
            be such as do not fit.
        claims: whether what the file declares of inner values counts at all.

    Returns:
        Shapes and types by value, and the sizes that were assumed or are unknown.

    Raises:
        InputError: a binding does not fit, a node's inputs do not fit its operator, or a graph has a cycle.
    """
    bound = bind(model, constants, bindings or {}, assume_batch, known or {})
    pinned: Mapping[str, int]
    try:
        inference, pinned = _inferred(model, constants, bound, known or {}, claims)
    except InputError:
        if assume_batch is None:
            raise
        # the model may run at one batch size alone, and that is another
        pinned = infer(model, constants, bindings=bindings, assume_batch=None, known=known).pinned
        if not pinned:
            raise
        bound = bind(model, constants, bindings or {}, assume_batch, known or {}, pinned)
        inference, more = _inferred(model, constants, bound, known or {}, claims)
        pinned = {**pinned, **more}
    types, disputed = inference.known_types(), frozenset(inference.disputed)
    observed = tuple(inference.observed)
    return Sizes(
        inference.shapes,
        inference.bound.unknown,
        observed,
        types,
        disputed,
        inference.values,
        pinned,
        inference.demands.sizes,
        tuple(inference.demands.equations),
        inference.named,
        inference.varying,
    )


def _inferred(
    model: ir.Model, constants: Constants, bound: BoundInputs, known: Mapping[str, Shape], claims: bool
) -> tuple[_Inference, Mapping[str, int]]:
    """A walk that ended with nothing more to pin, and the sizes that were pinned before."""
    pinned: dict[str, int] = {}
    while True:
        inference = _Inference(model, constants, bound, known, trust=claims)
        try:
            inference.run()
        except InputError:
            inference.contradicted = True  # what is declared may be what does not fit
        if inference.contradicted:
            inference = _Inference(model, constants, bound, known, trust=False)
            inference.run()
        more = inference.demands.pinned
        if more.keys() <= pinned.keys():
            return inference, pinned
        pinned.update(more)
        bound = bound.at(more)


class _Inference:
    """One walk over a model.

    Attributes:
        shapes: what was found so far.
        contradicted: whether the file declares a shape other than the one that was found.
        observed: the names of the values whose shape was taken from `known`.
        disputed: the values to which onnx's rules give other sizes, and all that follows from them.
        demands: the open sizes, and what operators demand of them.
        named: the shapes that have names of open sizes in them.
        varying: the values that open sizes of inputs may reach, whoever gave them, with the names of those.
    """

    def __init__(
        self,
        model: ir.Model,
        constants: Constants,
        bound: BoundInputs,
        known: Mapping[str, Shape],
        trust: bool,
    ) -> None:
        self._model = model
        self._constants = constants
        self.bound = bound
        self._known = known
        self._trust = trust
        self._imports = [onnx.helper.make_opsetid(*each) for each in model.graph.opset_imports.items()]
        self._types: dict[ir.Value, onnx.TypeProto] = {}
        self._guessed: set[ir.Value] = set()  # the element type is not known: float stands for it
        self._strict = True  # whether a node that does not fit is an error
        self.shapes: dict[ir.Value, Shape | None] = {}
        self.contradicted = False
        self.observed: list[str] = []
        self.disputed: set[ir.Value] = set()
        self.demands = Demands()
        self.named: dict[ir.Value, Dims] = {}
        self.varying: dict[ir.Value, frozenset[str]] = {}
        self._opset = default_opset(model)
        self.forget_values()

    def run(self) -> None:
        """Infer the main graph, on its inputs as bound.

        Raises:
            InputError: a node does not fit its inputs, or a graph has a cycle.
        """
        for value, shape in self.bound.shapes.items():
            self._settle(value, None, shape)
            if shape is not None:
                dims = named(shape, names_of(value, len(shape)))
                kind = self._types[value]
                if kind.HasField("optional_type"):  # what it holds is fed
                    inner = kind.optional_type.elem_type
                    inner.CopyFrom(tensor_type(inner.tensor_type.elem_type, dims))
                else:
                    self._name(value, dims)
            if opened := self.bound.opened(value, shape):
                self.varying[value] = opened
        self._run(self._model.graph)

    def forget_values(self) -> None:
        """Find anew what follows from shapes, after shapes that were only tried."""
        self.values = DataPropagation(self._constants, self._shape, self._opset)

    def _run(self, graph: ir.Graph) -> None:
        for node in topological(graph):
            self._reach(node)
            known = [self._known_shape(value) for value in node.outputs]
            complete = all(shape is not None and None not in shape for shape in known)
            if complete and not any(subgraphs(node)):
                typed = all(value.dtype is not None for value in node.outputs)
                with self.lenient():
                    inferred = [] if typed else self._infer(node)
            else:
                inferred = self._infer(node)
            if any(value in self.named for value in node.inputs):
                inferred = self._follow(node, inferred)
            if any(value in self.disputed for value in node.inputs):
                self.disputed.update(node.outputs)
            guessed = any(value in self._guessed for value in node.inputs)
            for i, value in enumerate(node.outputs):
                self._settle(value, inferred[i] if i < len(inferred) else None)
                if guessed and value.dtype is None:
                    self._guessed.add(value)

    def _reach(self, node: ir.Node) -> None:
        """Note which open sizes reach what the node makes, and what its bodies are given."""
        if not self.varying:
            return
        opened = frozenset[str]().union(*(self.varying.get(value, ()) for value in reads(node)))
        if opened:
            made = (*node.outputs, *(value for body in subgraphs(node) for value in body.inputs))
            self.varying.update(dict.fromkeys(made, opened))

    # --- what is known of one value ---

    def _shape(self, value: ir.Value) -> Shape | None:
        self.type_of(value)
        return self.shapes.get(value)

    def type_of(self, value: ir.Value) -> onnx.TypeProto:
        """The value's type; a float of unknown shape where nothing is known."""
        if value not in self._types:
            tensor = value.const_value
            if tensor is None:
                self._settle(value, None)
            else:
                self.shapes[value] = tensor_shape(tensor)
                self._types[value] = tensor_type(tensor.dtype.value, self.shapes[value])
        return self._types[value]

    def known_types(self) -> dict[ir.Value, onnx.TypeProto]:
        """The types that were found, without those that were assumed."""
        return {value: found for value, found in self._types.items() if value not in self._guessed}

    def _known_shape(self, value: ir.Value) -> Shape | None:
        return self._known.get(value.name or "") if value.graph is self._model.graph else None

    def _settle(self, value: ir.Value, inferred: onnx.TypeProto | None, shape: Shape | None = None) -> None:
        """Note the value's type: what was inferred or given, completed by what is known or declared."""
        self.named.pop(value, None)  # a loop may have had names for it in the pass before
        if inferred is None and value.type is not None and not isinstance(value.type, ir.TensorType):
            inferred = ir.serde.serialize_value(value).type
        if inferred is not None and inferred.WhichOneof("value") not in ("tensor_type", None):
            self._types[value] = inferred  # a sequence, an optional or a map has no shape
            self.shapes[value] = None
            return
        element = 0 if inferred is None else inferred.tensor_type.elem_type
        if element == 0 and value.dtype is not None:
            element = value.dtype.value
        self._guessed.discard(value)
        if element == 0:
            element = onnx.TensorProto.FLOAT
            self._guessed.add(value)
        if inferred is not None:
            shape = shape_of(inferred)
        known = self._known_shape(value)
        if known is not None:
            shape = completed(known, shape)
            if value.name and value.producer() is not None:
                self.observed.append(value.name)
        elif self._trust:
            shape = self._complete(shape, self._claimed(value, inferred))
        self.shapes[value] = shape
        self._types[value] = tensor_type(element, shape)
        if self.named and shape is not None and (dims := dims_of(inferred)) is not None:
            self._name(value, named(shape, dims))

    def _claimed(self, value: ir.Value, inferred: onnx.TypeProto | None) -> Shape | None:
        """The shape that the file declares; where open sizes reach, only its rank, and what was found too.

        Its sizes may be left from before the input was opened: they are likely, and no more. Where all of
        those that reach it are known by now, what names them is not left from before.
        """
        declared, opened = self.bound.resolve(value), self.varying.get(value)
        if declared is None or not opened:
            return declared
        if opened <= self.bound.symbols.keys() and names_all(value, opened):
            return declared
        dims = dims_of(inferred)
        if dims is None:
            return (None,) * len(declared)
        if len(dims) != len(declared):
            return declared
        for name, size in zip(dims, declared, strict=True):
            if isinstance(name, str) and size is not None:
                self.demands.claim(name, size)
        pairs = zip(dims, declared, strict=True)
        return tuple(size if isinstance(name, int) else None for name, size in pairs)

    def _name(self, value: ir.Value, dims: Dims) -> None:
        """Note the names of sizes that nobody gave."""
        if any(isinstance(size, str) for size in dims):
            self.named[value] = dims
            self._types[value] = tensor_type(self._types[value].tensor_type.elem_type, dims)

    def _dims(self, value: ir.Value | None) -> Dims | None:
        return None if value is None else self.named.get(value, self._shape(value))

    def _follow(
        self, node: ir.Node, inferred: Sequence[onnx.TypeProto | None]
    ) -> Sequence[onnx.TypeProto | None]:
        """Note what the node tells of open sizes; its types, with names for what it makes of them."""
        if not is_standard(node) or not inferred or inferred[0] is None:
            return inferred
        inputs = [self._dims(value) for value in node.inputs]
        output = dims_of(inferred[0])
        if output is not None:
            output = open_sizes.made(node, inputs, output, self.demands.sizes, self._constants.array)
        certain = self._strict and node.graph is self._model.graph
        self.demands.tell(node, inputs, output, certain=certain)
        if output is None:
            return inferred
        return [tensor_type(inferred[0].tensor_type.elem_type, output), *inferred[1:]]

    def _complete(self, found: Shape | None, declared: Shape | None) -> Shape | None:
        """The shape found, its unknown sizes as declared."""
        if found is None or declared is None:
            return declared if found is None else found
        if contradict(found, declared):
            self.contradicted = self.contradicted or self._strict
            return found
        return completed(found, declared)

    # --- one node ---

    def _infer(self, node: ir.Node) -> Sequence[onnx.TypeProto | None]:
        """The types of the node's outputs, as far as they follow from its inputs."""
        tensor = constant_tensor(node)
        if tensor is not None:
            return [tensor_type(tensor.dtype.value, tensor_shape(tensor))]
        rule = control_flow.rule_of(node, self._opset)
        if rule is not None:
            return rule(self, node)
        bodies = list(subgraphs(node))
        for body in bodies:
            with self.lenient():
                self.run_body(body, [None] * len(body.inputs))
        schema = self._schema(node)
        if schema is None or bodies:
            return []
        if not schema.has_type_and_shape_inference_function and node.op_type in _LEGACY_ELEMENTWISE:
            return [] if not node.inputs or node.inputs[0] is None else [self.type_of(node.inputs[0])]
        return self._infer_by_schema(node, schema)

    def _schema(self, node: ir.Node) -> Any:
        """The schema that onnx has for the node; None for a custom operator or a call of a function."""
        version = self._opset if is_standard(node) else self._model.graph.opset_imports.get(node.domain)
        if version is None or node.op_identifier() in self._model.functions:
            return None
        return onnx_rules.schema_of(node.op_type, node.domain, version)

    def _infer_by_schema(self, node: ir.Node, schema: Any) -> Sequence[onnx.TypeProto | None]:
        inputs = {f"i{i}": value for i, value in enumerate(node.inputs) if value is not None}
        types = {name: self.type_of(value) for name, value in inputs.items()}
        self._check_channels(node)
        data = {
            name: found for name, value in inputs.items() if (found := self._data(node, value)) is not None
        }
        complete = {name: tensor_proto(found.values) for name, found in data.items() if found.complete}
        version = self._model.ir_version or onnx.IR_VERSION
        try:
            inferred = onnx_rules.output_types(node, schema, types, complete, self._imports, version)
        except onnx_rules.DoesNotFitError as error:
            if not any(value in self._guessed for value in inputs.values()):
                self._refuse(node, str(error), error)
            return []
        if node.op_type in RUNTIME_RULES and is_standard(node):
            inferred = [self._as_run(node, *pair) for pair in zip(node.outputs, inferred, strict=True)]
        if node.op_type in SIZE_RULES and is_standard(node):
            inferred[0] = self._refine(node, inferred[0])
            self._check_elements(node, inferred[0])
        return inferred

    def _as_run(
        self, node: ir.Node, output: ir.Value, inferred: onnx.TypeProto | None
    ) -> onnx.TypeProto | None:
        """The type of an output with the shape that onnxruntime gives it."""
        first, second, *_ = (*node.inputs, None)
        shape = None if first is None else self._shape(first)
        if inferred is None or shape is None:
            return inferred

        def content(value: ir.Value | None) -> npt.NDArray[Any] | None:
            data = None if value is None else self._data(node, value)
            return data.values if data is not None and data.complete else None

        found = RUNTIME_RULES[node.op_type](
            node, shape, None if second is None else self._shape(second), content
        )
        if found is None:
            return inferred
        if (other := shape_of(inferred)) is not None and contradict(found, other):
            self.disputed.add(output)
        return tensor_type(inferred.tensor_type.elem_type, named(found, dims_of(inferred) or ()))

    def _data(self, node: ir.Node, value: ir.Value) -> Data | None:
        """The entries of an input that may be a size: whole numbers, few of them."""
        element = self.type_of(value).tensor_type.elem_type
        whole = element in (onnx.TensorProto.INT32, onnx.TensorProto.INT64) or value in self._guessed
        if not whole and node.op_type not in _FLOAT_SIZES:
            return None
        shape = self.shapes.get(value)
        if shape is not None and math.prod(size for size in shape if size is not None) > SMALL_SIZE:
            return None
        return self.values.get(value)

    def _refine(self, node: ir.Node, inferred: onnx.TypeProto | None) -> onnx.TypeProto | None:
        """Complete a shape that depends on a vector of sizes of which only some entries are known."""
        found = None if inferred is None else shape_of(inferred)
        operand = node.inputs[-1] if node.inputs else None
        if inferred is None or operand is None or (found is not None and None not in found):
            return inferred
        data = self._data(node, operand)
        length = self.shapes.get(operand)
        if data is not None and data.values.dtype.kind in "iu":
            wanted = data.entries()
        elif length is not None and len(length) == 1 and length[0] is not None:
            wanted = (None,) * length[0]
        else:
            return inferred
        first = None if node.inputs[0] is None else self._shape(node.inputs[0])
        partial = SIZE_RULES[node.op_type](node, first, wanted)
        if partial is None or (found is not None and len(found) != len(partial)):
            return inferred
        sizes = completed(found, partial) or partial
        return tensor_type(inferred.tensor_type.elem_type, named(sizes, dims_of(inferred) or ()))

    def _check_channels(self, node: ir.Node) -> None:
        """Compare the channels of a convolution's input and weight, which onnx's rules leave alone."""
        if node.op_type not in ("Conv", "ConvTranspose") or not is_standard(node) or len(node.inputs) < 2:
            return
        image, weight = (None if value is None else self._shape(value) for value in node.inputs[:2])
        if image is None or weight is None or len(image) < 3 or len(weight) < 3:
            return
        group = node.attributes.get_int("group", 1)
        channels = image[1]
        if node.op_type == "Conv":
            wanted = None if weight[1] is None else weight[1] * group
            stated = f"{weight[1]} × group {group}"
        else:
            wanted, stated = weight[0], str(weight[0])
        if channels is not None and wanted is not None and channels != wanted:
            self._refuse(node, f"input channels {channels} do not fit the weight's {stated}", None)

    def _check_elements(self, node: ir.Node, output: onnx.TypeProto | None) -> None:
        """Compare the elements before and after a Reshape, which onnx's rules leave alone too."""
        if node.op_type != "Reshape" or node.inputs[0] is None or output is None:
            return
        before, after = self._shape(node.inputs[0]), shape_of(output)
        if before is None or after is None or None in before or None in after:
            return
        if math.prod(size or 0 for size in before) != math.prod(size or 0 for size in after):
            reason = f"{format_shape(before)} has not the elements of {format_shape(after)}"
            self._refuse(node, reason, None)

    def _refuse(self, node: ir.Node, reason: str, cause: Exception | None) -> None:
        """Raise, unless the node may never run."""
        if not self._strict:
            return
        given = [value for value in node.inputs if value is not None]
        shapes = ", ".join(f"{value.name} {format_shape(self._shape(value))}" for value in given)
        advice = "check the model, or the sizes given for its inputs"
        raise MisfitError(f"{label(node)} ({node.op_type}): {reason} (inputs: {shapes}); {advice}") from cause

    # --- control flow ---

    @contextlib.contextmanager
    def lenient(self, lenient: bool = True) -> Iterator[None]:
        """Within, a node that does not fit has unknown outputs: it is perhaps never run."""
        before = self._strict
        self._strict = before and not lenient
        try:
            yield
        finally:
            self._strict = before

    def run_body(self, body: ir.Graph, given: Sequence[onnx.TypeProto | None]) -> list[onnx.TypeProto]:
        """Infer a subgraph on inputs of the given types; the types of its outputs."""
        for value, type_ in zip(body.inputs, given, strict=False):
            self._settle(value, type_)
        self._run(body)
        return [self.type_of(value) for value in body.outputs]
