"""What a model must be before anything is done to it; every refusal is one line with file, node and value.

Two checks, because a model passes through two forms:

- `check_proto`: what `onnx_ir` would lose or trip over when it reads the protobuf form.
- `validate`: the in-memory form, with what onnxruntime would refuse.

`onnx.checker` is no base for the second: it needs the serialised model (weights included), refuses models
that onnxruntime runs (unsorted nodes, graphs without a name, legacy operators such as ImageScaler), and its
messages span lines without always naming the node. The signatures of the operators are those of `onnx.defs`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import onnx
import onnx.defs
import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.files import show
from graphopt.order import label, producers, subgraphs

_DEVICES_SINCE_IR = 11
_ATTRIBUTE = onnx.AttributeProto
_KINDS = {
    getattr(onnx.defs.OpSchema.AttrType, kind.name): kind
    for kind in ir.AttributeType
    if kind is not ir.AttributeType.UNDEFINED
}
_SPARSE = {_ATTRIBUTE.SPARSE_TENSOR, _ATTRIBUTE.SPARSE_TENSORS}


# --- the protobuf form --------------------------------------------------------------------------------------


def check_proto(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model that the in-memory form can't carry without loss.

    Args:
        proto: the model; the data of its initializers is not looked at.
        where: what to call it in a message: its file.

    Raises:
        InputError: no graph; no or too new an IR version; `sparse_initializer`, sparse attributes,
            `training_info`, map or opaque types, attributes without a type; a name that is defined twice.
    """
    if not proto.HasField("graph"):
        raise InputError(f"{where}: holds no graph; it is not an ONNX model, or was cut short")
    if proto.ir_version < 1:
        raise InputError(f"{where}: states no IR version; it is not an ONNX model, or was cut short")
    if proto.ir_version > onnx.IR_VERSION:
        raise InputError(
            f"{where}: has IR version {proto.ir_version}, and onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}; upgrade onnx"
        )
    if proto.training_info:
        raise InputError(f"{where}: holds training_info, which would be lost; export the model for inference")
    if proto.ir_version < _DEVICES_SINCE_IR and proto.configuration:
        raise InputError(
            f"{where}: device configurations need IR version {_DEVICES_SINCE_IR}; set ir_version"
        )
    _check_imports(proto.opset_import, where)
    _check_proto_graph(proto.graph, where)
    for function in proto.functions:
        _check_imports(function.opset_import, where)
        _check_proto_nodes(function.node, set(function.input), where)
        defined = {*function.input, *(name for node in function.node for name in node.output)}
        for output in function.output:
            if output not in defined:
                raise InputError(
                    f"{where}: nothing in function {function.name!r} produces its output {output!r}"
                )


def _check_imports(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> None:
    versions: dict[str, int] = {}
    for entry in imports:
        domain = _plain_domain(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InputError(
                f"{where}: imports the operators of domain {domain!r} in versions {versions[domain]} and "
                f"{entry.version}; keep one"
            )


def _check_proto_graph(graph: onnx.GraphProto, where: str) -> None:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise InputError(f"{where}: sparse_initializer {name!r} would be lost; make it dense")
    defined: set[str] = set()
    for info in graph.input:
        _define(info.name, f"input of graph {graph.name!r}", defined, where)
    names = {_text(tensor.name, "an initializer", where) for tensor in graph.initializer}
    if "" in names:
        raise InputError(f"{where}: an initializer of graph {graph.name!r} has no name")
    if len(names) != len(graph.initializer):
        counted: set[str] = set()
        for tensor in graph.initializer:
            _define(tensor.name, f"initializer of graph {graph.name!r}", counted, where)
    defined |= names
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_reference(tensor, where)
    for group in (graph.input, graph.output, graph.value_info):
        for info in group:
            if not info.type.HasField("tensor_type"):
                _check_type(info.type, info.name, where)
    _check_proto_nodes(graph.node, defined, where)


def _check_type(type_: onnx.TypeProto, name: str, where: str) -> None:
    kind = type_.WhichOneof("value")
    if kind in ("map_type", "opaque_type"):
        raise InputError(
            f"{where}: value {name!r} has a {kind}, which onnx_ir can't carry; cut the model before it"
        )
    if kind in ("sequence_type", "optional_type"):
        _check_type(getattr(type_, kind).elem_type, name, where)


def _check_proto_nodes(nodes: Iterable[onnx.NodeProto], defined: set[str], where: str) -> None:
    for node in nodes:
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _text(text, "a node", where)
        for name in node.output:
            if name:
                _define(name, f"output of node {(node.name or node.op_type)!r}", defined, where)
        for attribute in node.attribute:
            kind = attribute.type
            if kind == _ATTRIBUTE.GRAPH:
                _check_proto_graph(attribute.g, where)
            elif kind == _ATTRIBUTE.GRAPHS:
                for graph in attribute.graphs:
                    _check_proto_graph(graph, where)
            elif kind in _SPARSE or (kind == _ATTRIBUTE.UNDEFINED and not attribute.ref_attr_name):
                what = "a sparse tensor, which onnx_ir can't carry" if kind in _SPARSE else "of no type"
                raise InputError(
                    f"{where}: node {node.name or node.op_type!r}: attribute {attribute.name!r} is {what}"
                )


def _check_reference(tensor: onnx.TensorProto, where: str) -> None:
    """Whether offset and length of external data are sizes; the file is for `graphopt.model` to check."""
    for entry in tensor.external_data:
        if entry.key in ("offset", "length") and not re.fullmatch(r"[0-9]+", entry.value):
            raise InputError(
                f"{where}: external data of tensor {tensor.name!r} has {entry.key} {entry.value!r}, "
                "which is no number of bytes"
            )


def _text(text: str | bytes, what: str, where: str) -> str:
    """A name; protobuf hands out one that is no UTF-8 as bytes."""
    if isinstance(text, bytes):
        raise InputError(f"{where}: the name {text[:40]!r} in {what} is not UTF-8; the file is damaged")
    return text


def _define(name: str, role: str, defined: set[str], where: str) -> None:
    if _text(name, "a graph", where) in defined:
        raise InputError(f"{where}: value {name!r} is defined twice, the second time as {role}")
    defined.add(name)


# --- the in-memory form -------------------------------------------------------------------------------------


def validate(model: ir.Model, path: Path | None) -> None:
    """Refuse a model that onnxruntime would refuse, as far as the graph and the operators' signatures tell.

    Custom domains are opaque. Nodes out of topological order are no error, since onnxruntime sorts them; a
    cycle is. Linear in the number of nodes; reads no weights.

    Args:
        model: the model; not changed.
        path: its file, for the messages; None when it has none.

    Raises:
        InputError: a value that nothing defines, or that is defined twice; a cycle; an output that nothing
            produces; an unknown operator or opset; a wrong number of inputs or outputs; an attribute that is
            unknown, missing or of the wrong kind; an initializer whose data doesn't fit its dims; a weight
            that doesn't fit its Conv, ConvTranspose or Gemm.
    """
    where = "the model" if path is None else show(path)
    _Validator(model, where).run()


class _Validator:
    """One walk over a model. Values are told apart by identity, as names repeat between branches."""

    def __init__(self, model: ir.Model, where: str) -> None:
        self.model = model
        self.where = where
        self.imports: Mapping[str, int] = {}
        self.declared: set[ir.Value] = set()  # by the graph at hand and those around it, in any order
        self.seen: set[ir.Value] = set()  # of these, the ones that the walk has passed
        self.names: set[str] = set()  # of the values in `seen`
        self.unsorted: dict[ir.Graph, None] = {}  # a dict keeps the order, so that messages repeat

    def fail(self, message: str) -> NoReturn:
        raise InputError(f"{self.where}: {message}")

    def run(self) -> None:
        self.imports = self.model.opset_imports
        self._check_versions()
        self._check_graph(self.model.graph)
        for function in self.model.functions.values():
            self.imports = {**self.model.opset_imports, **function.opset_imports}
            self._check_graph(function.graph)
        for graph in self.unsorted:
            self._check_acyclic(graph)

    def _check_versions(self) -> None:
        if not self.imports:
            self.fail("imports no opset; every model must, so it was cut short or badly exported")
        newest = onnx.defs.onnx_opset_version()
        for domain, version in self.imports.items():
            if version < 1:
                self.fail(f"imports version {version} of domain {domain!r}; the first is 1")
            if _plain_domain(domain) == "" and version > newest:
                self.fail(
                    f"uses opset {version}, and onnx {onnx.__version__} knows up to {newest}; upgrade onnx"
                )

    def _check_graph(self, graph: ir.Graph) -> None:
        own: set[ir.Value] = set()
        for value in graph.inputs:
            if value in own:
                self.fail(f"graph {graph.name!r} lists its input {value.name!r} twice")
            own.add(value)
        own.update(graph.initializers.values())
        entering = list(own)
        for node in graph:
            own.update(node.outputs)
        self.declared |= own
        self.seen.update(entering)
        added = {value.name for value in entering if value.name and value.name not in self.names}
        self.names |= added
        for value in graph.initializers.values():
            self._check_initializer(value)
        for node in graph:
            self._check_node(node, added)
        for output in graph.outputs:
            if output not in own:
                self.fail(f"nothing in graph {graph.name!r} produces its output {output.name!r}")
        self.declared -= own
        self.seen -= own
        self.names -= added

    def _check_node(self, node: ir.Node, added: set[str]) -> None:
        for value in node.inputs:
            if value is not None and value not in self.seen:
                self._check_late(node, value)
        for body in subgraphs(node):
            self._check_graph(body)
        for attribute in node.attributes.values():
            self._check_attribute(node, attribute)
        self._check_operator(node)
        for value in node.outputs:
            self.seen.add(value)
            if not value.name:
                continue
            if value.name in self.names:
                self.fail(f"value {value.name!r}, an output of node {label(node)!r}, is defined twice")
            self.names.add(value.name)
            added.add(value.name)
        if node.domain == "" and node.op_type in _WEIGHT_CHECKS and len(node.inputs) > 1:
            problem = _WEIGHT_CHECKS[node.op_type](node)
            if problem:
                self.fail(f"node {label(node)!r}: {problem}")

    def _check_late(self, node: ir.Node, value: ir.Value) -> None:
        if value not in self.declared:
            reader = f"node {label(node)!r} reads value {value.name!r}"
            self.fail(f"{reader}, which no node, input or initializer defines")
        producer = value.producer()
        if producer is not None and producer.graph is not None:
            self.unsorted[producer.graph] = None

    def _check_attribute(self, node: ir.Node, attribute: ir.Attr) -> None:
        if attribute.is_ref() or attribute.value is None:
            return
        if attribute.type is ir.AttributeType.TENSOR:
            problem = _data_problem(attribute.as_tensor())
            if problem:
                self.fail(f"node {label(node)!r}: attribute {attribute.name!r} {problem}")

    def _check_initializer(self, value: ir.Value) -> None:
        if value.const_value is None:
            self.fail(f"initializer {value.name!r} has no data")
        problem = _data_problem(value.const_value)
        if problem:
            self.fail(f"initializer {value.name!r} {problem}; the file is damaged")

    def _check_operator(self, node: ir.Node) -> None:
        domain = _plain_domain(node.domain)
        version = self.imports.get(domain, self.imports.get("ai.onnx") if domain == "" else None)
        if version is None:
            self.fail(f"node {label(node)!r} is of domain {domain!r}, for which the model imports no opset")
        if node.op_identifier() in self.model.functions:
            return
        if domain and not domain.startswith("ai.onnx"):
            return
        signature = _signature(domain, node.op_type, version)
        if signature is None:
            if _runtime_operators().get((domain, node.op_type), version + 1) <= version:
                return
            self.fail(
                f"node {label(node)!r}: no operator {node.op_type!r} in opset {version} of domain {domain!r}"
            )
        problem = signature.problem(node)
        if problem:
            self.fail(f"node {label(node)!r} ({node.op_type}): {problem}")

    def _check_acyclic(self, graph: ir.Graph) -> None:
        needs = {node: producers(node, graph) for node in graph}
        users: dict[ir.Node, list[ir.Node]] = {node: [] for node in graph}
        missing = {node: len(needed) for node, needed in needs.items()}
        for node, needed in needs.items():
            for producer in needed:
                users[producer].append(node)
        ready = [node for node, count in missing.items() if count == 0]
        while ready:
            for user in users[ready.pop()]:
                missing[user] -= 1
                if missing[user] == 0:
                    ready.append(user)
        stuck = {node for node, count in missing.items() if count > 0}
        if stuck:
            cycle = _cycle(next(node for node in graph if node in stuck), needs, stuck)
            names = [repr(label(node)) for node in cycle]
            shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
            self.fail(f"graph {graph.name!r} is cyclic: {' → '.join([*shown, names[0]])}")


def _cycle(
    node: ir.Node, needs: Mapping[ir.Node, Mapping[ir.Node, None]], stuck: set[ir.Node]
) -> list[ir.Node]:
    """A cycle, producers first, found by following from a stuck node what it waits for."""
    trail: dict[ir.Node, int] = {}
    while node not in trail:
        trail[node] = len(trail)
        node = next(producer for producer in needs[node] if producer in stuck)
    return list(trail)[trail[node] :][::-1]


# --- operators ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signature:
    """What `onnx.defs` says of an operator, in a form that is quick to check thousands of nodes against."""

    deprecated_since: int | None
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: tuple[int, ...]
    """Positions of the inputs that may not be left out."""
    kinds: Mapping[str, ir.AttributeType]
    required: tuple[str, ...]

    def problem(self, node: ir.Node) -> str | None:
        """What is wrong with a node of this operator; None when nothing is."""
        if self.deprecated_since is not None:
            return f"the operator is gone since opset {self.deprecated_since}; export for an older one"
        inputs, outputs = len(node.inputs), _used(node.outputs)
        if not self.inputs[0] <= inputs <= self.inputs[1]:
            return f"has {inputs} inputs, and the operator takes {_span(self.inputs)}"
        if not self.outputs[0] <= outputs <= self.outputs[1]:
            return f"has {outputs} outputs, and the operator gives {_span(self.outputs)}"
        for position in self.needed:
            if node.inputs[position] is None:
                return f"input {position} is left out, and the operator needs it"
        for attribute in node.attributes.values():
            kind = self.kinds.get(attribute.name)
            if kind is None:
                if not attribute.name.startswith("__"):  # the standard leaves these to tools
                    return f"has no attribute {attribute.name!r}"
            elif kind != attribute.type:
                return f"attribute {attribute.name!r} is {attribute.type.name}, and must be {kind.name}"
        for name in self.required:
            if name not in node.attributes:
                return f"attribute {name!r} is missing"
        return None


def _used(outputs: Iterable[ir.Value]) -> int:
    """The number of outputs up to the last one with a name; ONNX leaves optional ones at the end unnamed."""
    return max((i for i, value in enumerate(outputs, 1) if value.name), default=0)


def _span(limits: tuple[int, int]) -> str:
    low, high = limits
    if low == high:
        return str(low)
    return f"{low} to {high}" if high < 2**31 - 1 else f"at least {low}"


@functools.lru_cache(maxsize=4096)
def _signature(domain: str, op_type: str, version: int) -> _Signature | None:
    """The operator as of an opset; None when the standard has none of that name."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    needed = tuple(
        i for i, parameter in enumerate(schema.inputs) if parameter.option == single and i < schema.min_input
    )
    return _Signature(
        deprecated_since=schema.since_version if schema.deprecated else None,
        inputs=(schema.min_input, schema.max_input),
        outputs=(schema.min_output, schema.max_output),
        needed=needed,
        kinds={name: _KINDS[attribute.type] for name, attribute in schema.attributes.items()},
        required=tuple(name for name, attribute in schema.attributes.items() if attribute.required),
    )


@functools.lru_cache(maxsize=1)
def _runtime_operators() -> Mapping[tuple[str, str], int]:
    """What onnxruntime runs, and since which opset.

    Beyond the standard, these are legacy operators such as ImageScaler, Crop and Affine.
    """
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        schemas = state.get_all_operator_schema()
    except (ImportError, AttributeError):  # a build without Python's view of the schemas
        return {}
    since: dict[tuple[str, str], int] = {}
    for schema in schemas:
        key = _plain_domain(schema.domain), schema.name
        since[key] = min(schema.since_version, since.get(key, schema.since_version))
    return since


def _plain_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


# --- weights ------------------------------------------------------------------------------------------------


_VALUES_PER_FIELD = {
    "float_data": {ir.DataType.FLOAT: 1, ir.DataType.COMPLEX64: 2},
    "double_data": {ir.DataType.DOUBLE: 1, ir.DataType.COMPLEX128: 2},
}


def _data_problem(tensor: ir.TensorProtocol | None) -> str | None:
    """How a tensor's data differs from the size that its dims and type state; None when it fits."""
    if isinstance(tensor, ir.StringTensor):
        held, wanted = len(tensor.string_data()), tensor.size
        return None if held == wanted else f"has dims {_dims(tensor)}, {wanted} strings, but holds {held}"
    if not isinstance(tensor, ir.serde.TensorProtoTensor):
        return None  # an array fits its own shape
    proto = tensor.raw
    if proto.data_type == onnx.TensorProto.UNDEFINED:
        return "has no element type"
    if any(size < 0 for size in proto.dims):
        return f"has negative dims {_dims(tensor)}"
    if proto.HasField("raw_data"):
        held = len(proto.raw_data)
        return (
            None
            if held == tensor.nbytes
            else f"has dims {_dims(tensor)}, {tensor.nbytes} bytes, but holds {held}"
        )
    for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        held = len(getattr(proto, field))
        if held:
            break
    wanted = tensor.size * _VALUES_PER_FIELD.get(field, {}).get(tensor.dtype, 1)
    if tensor.dtype.bitwidth < 8:  # several elements share one entry of int32_data
        wanted = tensor.nbytes
    return None if held == wanted else f"has dims {_dims(tensor)}, {wanted} values, but holds {held}"


def _dims(tensor: ir.TensorProtocol) -> list[int]:
    return list(tensor.shape.numpy())


def _static_dims(node: ir.Node, position: int) -> list[int] | None:
    """The dims of an input that is a constant; None where it is left out or not constant."""
    value = node.inputs[position] if position < len(node.inputs) else None
    return None if value is None or value.const_value is None else _dims(value.const_value)


def _conv_problem(node: ir.Node) -> str | None:
    dims = _static_dims(node, 1)
    if dims is None:
        return None
    group = node.attributes.get_int("group", 1)
    if len(dims) < 3:
        return f"its weight has dims {dims}; a convolution needs [out, in / group, kernel…]"
    transposed = node.op_type == "ConvTranspose"
    if group < 1 or dims[0] % group:
        return f"its weight has dims {dims}, and group {group} doesn't divide {dims[0]}"
    return _window_problem(node, dims) or _bias_problem(node, dims[1] * group if transposed else dims[0])


def _window_problem(node: ir.Node, dims: list[int]) -> str | None:
    """Whether kernel_shape, strides, dilations and pads have the lengths that the weight's rank asks for."""
    spatial = len(dims) - 2
    kernel = node.attributes.get_ints("kernel_shape")
    if kernel is not None and list(kernel) != dims[2:]:
        return f"kernel_shape is {list(kernel)}, and the weight has dims {dims}"
    for name, length in (("strides", spatial), ("dilations", spatial), ("pads", 2 * spatial)):
        values = node.attributes.get_ints(name)
        if values is None:
            continue
        if len(values) != length:
            return f"{name} {list(values)} should have {length} entries for a weight of dims {dims}"
        if name != "pads" and min(values) < 1:
            return f"{name} {list(values)} should be at least 1"
    return None


def _bias_problem(node: ir.Node, channels: int) -> str | None:
    bias = _static_dims(node, 2)
    return None if bias in (None, [channels]) else f"its bias has dims {bias}, and should have [{channels}]"


def _gemm_problem(node: ir.Node) -> str | None:
    dims = _static_dims(node, 1)
    return None if dims is None or len(dims) == 2 else f"its weight has dims {dims}, and should have two"


_WEIGHT_CHECKS = {"Conv": _conv_problem, "ConvTranspose": _conv_problem, "Gemm": _gemm_problem}
