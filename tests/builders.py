"""Small models for tests, and the check → rewrite → check → compare → recount habit as one function."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.report.results import Report

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3}
"""Largest difference relative to max|y| that exact rewrites may make, by the type of the output."""


def _newest_opset() -> int:
    """The newest opset that both onnx and the installed onnxruntime know."""
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    for version in range(onnx.defs.onnx_opset_version(), 17, -1):
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(proto.SerializeToString(), options)
        except ort.capi.onnxruntime_pybind11_state.Fail:
            continue
        return version
    return 17


NEWEST_OPSET = _newest_opset()
OLD_RUNTIME = tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24)
"""Whether onnxruntime is older than 1.24, the newest one for Python 3.10 being 1.23."""
"""The newest opset of the installed onnx, as far as onnxruntime is known to load it."""
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


# ---------------------------------------------------------------- models


class Net:
    """A model under construction; each method adds an operator and returns its output's name.

    Args:
        opset: version of the default domain.
        dtype: float type of inputs and weights.
        ir_version: of the file; None takes the oldest that the opset allows. Up to 3 every initializer is
            listed among the inputs too, as the format asks.
        seed: of the weights.
    """

    def __init__(
        self,
        opset: int = 17,
        dtype: npt.DTypeLike = np.float32,
        *,
        ir_version: int | None = None,
        seed: int = 0,
    ) -> None:
        self.opset = opset
        self.dtype = np.dtype(dtype)
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.channels: dict[str, int] = {}
        self.overridable: list[str] = []
        self.domains: list[str] = []
        oldest = helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)
        self.ir_version = oldest if ir_version is None else ir_version
        self._count: Counter[str] = Counter()
        self._first = 0

    # -------------------------------------------------- values

    def input(self, shape: Sequence[int | str | None], name: str = "x", kind: int | None = None) -> str:
        """A graph input; axis 1 (the last one at rank 2 and 3 means nothing special) holds the channels."""
        element = helper.np_dtype_to_tensor_dtype(self.dtype) if kind is None else kind
        self.inputs.append(helper.make_tensor_value_info(name, element, list(shape)))
        if len(shape) > 1 and isinstance(shape[1], int):
            self.channels[name] = shape[1]
        return name

    def const(self, array: npt.ArrayLike, name: str | None = None, *, overridable: bool = False) -> str:
        """An initializer; floats get the model's type."""
        name = name or self._fresh("w")
        self.initializers.append(numpy_helper.from_array(self._cast(array), name))
        if overridable:
            self.overridable.append(name)
        return name

    def constant_node(self, array: npt.ArrayLike) -> str:
        """A Constant operator."""
        tensor = numpy_helper.from_array(self._cast(array))
        return self.op("Constant", value=tensor)

    def normal(self, *shape: int) -> Array:
        """Seeded normal numbers."""
        return self.random.standard_normal(shape)

    def weights(self, out: int, inside: int, *taps: int) -> Array:
        """Seeded weights that keep the scale of what they meet."""
        return self.normal(out, inside, *taps) / math.sqrt(inside * math.prod(taps))

    # -------------------------------------------------- operators

    def op(
        self,
        kind: str,
        *inputs: str,
        outputs: int = 1,
        name: str | None = None,
        domain: str = "",
        **attrs: Any,
    ) -> str:
        """Any operator; of several outputs the first is returned, and the n-th is called ``<first>_n``."""
        first = self._fresh("t")
        outs = [first, *(f"{first}_{i}" for i in range(1, outputs))]
        name = self._fresh(kind) if name is None else name
        self.nodes.append(helper.make_node(kind, list(inputs), outs, name=name, domain=domain, **attrs))
        if inputs and inputs[0] in self.channels:
            self.channels[first] = self.channels[inputs[0]]
        if domain and domain not in self.domains:
            self.domains.append(domain)
        return first

    def conv(
        self,
        x: str,
        out: int,
        kernel: Sequence[int] = (3, 3),
        *,
        bias: bool | str = True,
        weight: str | Array | None = None,
        group: int = 1,
        transpose: bool = False,
        name: str | None = None,
        **attrs: Any,
    ) -> str:
        """A Conv or ConvTranspose; attributes that are not given stay at their defaults."""
        inside = self.channels[x]
        if weight is None:
            shape = (inside, out // group) if transpose else (out, inside // group)
            weight = self.weights(*shape, *kernel)
        w = weight if isinstance(weight, str) else self.const(weight)
        inputs = [x, w]
        if isinstance(bias, str):
            inputs.append(bias)
        elif bias:
            inputs.append(self.const(self.normal(out)))
        if group != 1:
            attrs["group"] = group
        y = self.op("ConvTranspose" if transpose else "Conv", *inputs, name=name, **attrs)
        self.channels[y] = out
        return y

    def gemm(self, x: str, out: int, *, bias: bool | str = True, trans: int = 1, **attrs: Any) -> str:
        """A Gemm whose weights are stored [out, in] (transB=1) or [in, out]."""
        weight = self.weights(out, self.channels[x])
        inputs = [x, self.const(weight if trans else weight.T)]
        if isinstance(bias, str):
            inputs.append(bias)
        elif bias or self.opset < 11:
            inputs.append(self.const(self.normal(out)))
        y = self.op("Gemm", *inputs, transB=trans, **attrs)
        self.channels[y] = out
        return y

    def matmul(self, x: str, inside: int, out: int) -> str:
        """A MatMul by a constant matrix."""
        y = self.op("MatMul", x, self.const(self.weights(out, inside).T))
        self.channels[y] = out
        return y

    def bn(self, x: str, **attrs: Any) -> str:
        """A BatchNormalization."""
        channels = self.channels[x]
        return self.op(
            "BatchNormalization",
            x,
            self.const(self.random.uniform(0.5, 1.5, channels)),
            self.const(self.normal(channels)),
            self.const(self.normal(channels) * 0.3),
            self.const(self.random.uniform(0.5, 1.5, channels)),
            **attrs,
        )

    def per_channel(self, channels: int, axes: int = 2) -> Array:
        """Positive numbers [1, channels, 1…], one a channel."""
        return self.random.uniform(0.5, 1.5, (1, channels, *(1,) * axes))

    def affine(self, kind: str, x: str, constant: npt.ArrayLike, *, first: bool = False) -> str:
        """An elementwise operator with a constant, which ``first`` puts in front."""
        c = self.const(constant)
        y = self.op(kind, *((c, x) if first else (x, c)))
        self.channels[y] = self.channels.get(x, 0)
        return y

    def pad(self, x: str, pads: Sequence[int], value: float | None = None, **attrs: Any) -> str:
        """A Pad with its amounts where the opset has them."""
        if self.opset < 11:
            if value is not None:
                attrs["value"] = value
            return self.op("Pad", x, pads=list(pads), **attrs)
        inputs = [x, self.const(np.array(pads, np.int64))]
        if value is not None:
            inputs.append(self.const(np.array(value)))
        return self.op("Pad", *inputs, **attrs)

    def number_from(self, first: int) -> None:
        """Lets names count on from a number, so that those of a body clash with no others."""
        self._first = first

    def body(self, name: str, outputs: Sequence[str], **parts: Any) -> onnx.GraphProto:
        """The operators added so far as a subgraph; what it reads and does not make it captures."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        outs = parts.pop("output_infos", None) or [
            helper.make_tensor_value_info(output, kind, None) for output in outputs
        ]
        return helper.make_graph(
            self.nodes, name, parts.pop("inputs", []), outs, self.initializers if self.initializers else []
        )

    # -------------------------------------------------- the model

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model, its outputs with inferred shapes."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = list(self.inputs)
        for tensor in self.initializers:
            if self.ir_version < 4 or tensor.name in self.overridable:
                inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        infos = [helper.make_tensor_value_info(output, kind, None) for output in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in self.domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        if all(output.type.tensor_type.HasField("shape") for output in inferred):
            del model.graph.output[:]
            model.graph.output.extend(inferred)
        else:  # the checker wants a shape; what inference does not know is left open
            arrays = run(model, make_feeds(model))
            del model.graph.output[:]
            model.graph.output.extend(_info(n, a, open=True) for n, a in zip(outputs, arrays, strict=True))
        return model

    def _fresh(self, prefix: str) -> str:
        self._count[prefix] += 1
        return f"{prefix}{self._first + self._count[prefix]}"

    def _cast(self, array: npt.ArrayLike) -> Array:
        values = np.asarray(array)
        return np.asarray(values, self.dtype if values.dtype.kind == "f" else values.dtype, order="C")


def low_rank(
    net: Net,
    out: int,
    inside: int,
    taps: Sequence[int],
    *,
    rank_in: int | None = None,
    rank_out: int | None = None,
) -> Array:
    """Weights [out, in, *taps] whose unfoldings have the given ranks."""
    core = net.weights(rank_out or out, rank_in or inside, *taps)
    if rank_in is not None:
        core = np.einsum("or...,ri->oi...", core, net.weights(rank_in, inside))
    if rank_out is not None:
        core = np.einsum("or,ri...->oi...", net.weights(out, rank_out), core)
    return core


# ---------------------------------------------------------------- running and counting


def session(model: onnx.ModelProto, *, optimised: bool = False) -> ort.InferenceSession:
    """A quiet single-threaded session."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Feeds, *, optimised: bool = False) -> list[Array]:
    """The outputs of one run."""
    return list(session(model, optimised=optimised).run(None, feeds))


def make_feeds(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None, number: int = 0) -> Feeds:
    """Seeded inputs; open dimensions are 1 (or what ``sizes`` says), and two more in the next one.

    Booleans alternate from one number to the next; whole numbers are 2 (a Loop's trip count).
    """
    random = np.random.default_rng(100 + number)
    weights = {tensor.name for tensor in model.graph.initializer}
    feeds: Feeds = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = [
            d.dim_value if d.HasField("dim_value") else (sizes or {}).get(d.dim_param, 1) + 2 * number
            for d in kind.shape.dim
        ]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = np.full(shape, number % 2 == 0)
        elif dtype.kind in "iu":
            feeds[value.name] = np.full(shape, 2, dtype)
        else:
            feeds[value.name] = random.standard_normal(shape).astype(dtype)
    return feeds


def counted_macs(model: onnx.ModelProto, feeds: Feeds, only: Sequence[str] | None = None) -> int:
    """MACs of Conv, ConvTranspose, Gemm and MatMul from shapes seen by running with every value exposed.

    Independent of graphopt's own counter. A subgraph counts once, whichever branch the feeds take.

    Args:
        model: the model.
        feeds: its inputs.
        only: names of the operators to count; all when None.
    """
    return _graph_macs(model, model.graph, dict(feeds), only)


def _graph_macs(
    model: onnx.ModelProto, graph: onnx.GraphProto, known: Feeds, only: Sequence[str] | None
) -> int:
    initial = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made = [name for node in graph.node for name in node.output if name]
    own = [n.name for n in graph.input if n.name not in initial]
    captured = sorted(_captured(graph) - set(own))
    probe = helper.make_model(
        helper.make_graph(
            graph.node,
            "probe",
            [_info(name, known[name]) for name in (*own, *captured) if name in known],
            [onnx.ValueInfoProto(name=name) for name in made],
            graph.initializer,
        ),
        opset_imports=model.opset_import,
        ir_version=max(model.ir_version, 4),
    )
    used = {i.name for i in probe.graph.input}
    arrays = session(probe).run(made, {name: known[name] for name in used}) if made else []
    values = {**known, **initial, **dict(zip(made, arrays, strict=True))}
    total = 0
    for node in graph.node:
        counts = only is None or node.name in only
        if counts and node.op_type in LINEAR and node.domain in ("", "ai.onnx"):
            total += _node_macs(node, values)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                inner = {**values, **_body_inputs(node, attribute.g, values)}
                total += _graph_macs(model, attribute.g, inner, only)
    return total


def _body_inputs(node: onnx.NodeProto, body: onnx.GraphProto, values: Feeds) -> Feeds:
    """What the first iteration of a Loop gives its body; nothing for an If."""
    if node.op_type != "Loop":
        return {}
    first = [np.array(0, np.int64), np.array(True), *(values[name] for name in node.input[2:])]
    return dict(zip((value.name for value in body.input), first, strict=True))


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that the graph reads, its subgraphs included, and does not make."""
    own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input if name}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                read |= _captured(attribute.g)
    return read - own


def _info(name: str, array: Array, *, open: bool = False) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim if open else array.shape)


def _node_macs(node: onnx.NodeProto, values: Feeds) -> int:
    x, w, y = values[node.input[0]], values[node.input[1]], values[node.output[0]]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return y.size * math.prod(w.shape[1:])
    if node.op_type == "ConvTranspose":
        return x.size // x.shape[1] * w.size
    inner = x.shape[0] if node.op_type == "Gemm" and attributes.get("transA") else x.shape[-1]
    return y.size * inner


# ---------------------------------------------------------------- check → rewrite → check → compare


@dataclass(frozen=True)
class Checked:
    """A rewritten model that passed `check`.

    Attributes:
        before: the model as given.
        after: the model as saved.
        report: what graphopt says it did.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    report: Report
    macs_before: int
    macs_after: int
    applied: Mapping[str, int] = field(default_factory=dict)

    @property
    def ops(self) -> Counter[str]:
        """How many operators of each type the outermost graph of the saved model has."""
        return Counter(node.op_type for node in self.after.graph.node)

    def node(self, kind: str) -> onnx.NodeProto:
        """The only operator of a type."""
        (found,) = [node for node in self.after.graph.node if node.op_type == kind]
        return found

    def attributes(self, kind: str) -> dict[str, Any]:
        """The attributes of the only operator of a type."""
        return {a.name: helper.get_attribute_value(a) for a in self.node(kind).attribute}

    def reasons(self, rewrite: str) -> list[str]:
        """Why sites were rejected or declined."""
        left = (*self.report.rejected, *self.report.declined)
        return [item.reason for item in left if item.rewrite == rewrite]

    def refused(self, rewrite: str, *parts: str) -> bool:
        """Whether one reason against the rewrite holds all these texts."""
        found = self.reasons(rewrite)
        assert any(all(part in reason for part in parts) for reason in found), (parts, found)
        return True


def check(
    model: onnx.ModelProto,
    *,
    applied: Mapping[str, int] | None = None,
    macs_after: int | None = None,
    sizes: Mapping[str, int] | None = None,
    compare: bool = True,
    again: bool = True,
    feeds: Iterable[Feeds] | None = None,
    **options: Any,
) -> Checked:
    """Checks the model, rewrites it, saves it, checks it again, compares both in onnxruntime and recounts.

    Args:
        model: the model.
        applied: how often each rewrite has to be applied; None leaves that open.
        macs_after: MACs that have to be left.
        sizes: of symbolic dimensions, in the inputs that are run; 1 where not given.
        compare: whether the outputs have to be equal up to rounding.
        again: whether a second run has to find nothing and to write the same bytes.
        feeds: inputs to compare on; seeded ones of two sizes where not given.
        options: of `graphopt.optimize`; ``aim`` is ``macs`` where not given.
    """
    onnx.checker.check_model(model, full_check=True)
    options.setdefault("aim", "macs")
    with tempfile.TemporaryDirectory() as folder:
        given, saved, second = (Path(folder) / f"{name}.onnx" for name in ("given", "saved", "second"))
        onnx.save(model, given)
        result = graphopt.optimize(given, **options)
        result.save(saved)
        if not result.report.changed:
            assert saved.read_bytes() == given.read_bytes()
        if again:
            repeated = graphopt.optimize(saved, **options)
            assert not repeated.report.changed, [a.candidate for a in repeated.report.applied]
            repeated.save(second)
            assert second.read_bytes() == saved.read_bytes()
        after = onnx.load(saved)
    onnx.checker.check_model(after, full_check=True)
    assert interface(after) == interface(model)
    assert result.report.passed
    if compare:
        compare_outputs(model, after, feeds or [make_feeds(model, sizes, number) for number in (0, 1)])
    counted = [counted_macs(each, make_feeds(model, sizes)) for each in (model, after)]
    found = Counter(item.candidate.rewrite for item in result.report.applied)
    assert result.report.before.macs in (None, counted[0])
    assert result.report.after.macs in (None, counted[1])
    if applied is not None:
        assert dict(found) == dict(applied), (result.report.rejected, result.report.declined)
    if macs_after is not None:
        assert counted[1] == macs_after == result.report.after.macs
    assert counted[1] <= counted[0]
    assert bool(found) == result.report.changed or options.get("freeze_initializers")
    return Checked(model, after, result.report, counted[0], counted[1], found)


def interface(model: onnx.ModelProto) -> tuple[list[bytes], list[bytes]]:
    """Names, types and shapes of the inputs that a caller feeds and of the outputs, in their order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in weights]
    return (
        [v.name.encode() + v.type.SerializeToString(deterministic=True) for v in inputs],
        [v.name.encode() + v.type.SerializeToString(deterministic=True) for v in model.graph.output],
    )


def compare_outputs(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Iterable[Feeds]) -> None:
    """Asserts that the models compute the same, at both levels of onnxruntime's own optimisation."""
    reference = session(before)
    candidates = [session(after, optimised=optimised) for optimised in (False, True)]
    for feed in feeds:
        expected = reference.run(None, feed)
        for candidate in candidates:
            for a, b in zip(expected, candidate.run(None, feed), strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                if a.dtype.kind != "f":
                    np.testing.assert_array_equal(a, b)
                    continue
                wide, other = a.astype(np.float64), b.astype(np.float64)
                scale = np.abs(wide).max(initial=0.0)
                gap = np.abs(wide - other).max(initial=0.0)
                assert gap <= TOLERANCE[a.dtype.name] * scale, f"{gap / scale:.2e} relative"
