"""Models and inputs for tests, and the check → rewrite → check → compare → recount habit as one function.

`model` takes nodes and weights by name, `Net` adds operators one behind the other.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.report.results import Report
from graphopt.rewrites.registry import registry

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = dict[str, Array]
Shape: TypeAlias = "Sequence[int | str | None] | None"

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
"""The newest opset of the installed onnx, as far as onnxruntime is known to load it."""
OLD_RUNTIME = tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24)
"""Whether onnxruntime is older than 1.24, the newest one for Python 3.10 being 1.23."""
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


# ---------------------------------------------------------------- models by name


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weight(*shape: int, seed: int = 0) -> Array:
    """Random weights that neither raise nor lower the variance by much."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return (rng(seed).standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def info(name: str, shape: Shape, dtype: Any = np.float32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; "-" stands for an optional input that is left out."""
    names = ["" if part == "-" else part for part in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=name, **attributes)


def parsed(*nodes: onnx.NodeProto | str) -> list[onnx.NodeProto]:
    """Nodes, some of them in the text form of onnx, such as ``y = Conv <pads = [1, 1]> (x, w)``."""
    found: list[onnx.NodeProto] = []
    for part in nodes:
        text = isinstance(part, str)
        found += onnx.parser.parse_graph(f"g () => () {{ {part} }}").node if text else [part]
    return found


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array] | None = None,
    *,
    inputs: Mapping[str, Shape] | Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Mapping[str, Shape] | Sequence[onnx.ValueInfoProto] | None = None,
    overridable: Sequence[str] = (),
    dtype: Any = np.float32,
    opset: int = 17,
    ir_version: int = 8,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model; `overridable` names initializers that are listed among the inputs too."""
    weights = weights or {}
    inputs = {"x": [1, 8, 8, 8]} if inputs is None else inputs
    outputs = {"y": None} if outputs is None else outputs
    if isinstance(inputs, Mapping):
        inputs = [info(name, shape, dtype) for name, shape in inputs.items()]
    if isinstance(outputs, Mapping):
        outputs = [info(name, shape, dtype) for name, shape in outputs.items()]
    extra = [info(name, weights[name].shape, weights[name].dtype) for name in overridable]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()]
    graph = helper.make_graph(list(nodes), "net", [*inputs, *extra], list(outputs), tensors)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="tests")


def batch_norm(prefix: str, channels: int, dtype: Any = np.float32, seed: int = 1) -> dict[str, Array]:
    """Scale, shift, mean and variance of a BatchNormalization, by name."""
    random = rng(seed)
    values = (random.uniform(0.5, 2, channels), random.standard_normal(channels))
    moments = (random.standard_normal(channels), random.uniform(0.5, 2, channels))
    names = ("scale", "shift", "mean", "var")
    return {f"{prefix}/{n}": v.astype(dtype) for n, v in zip(names, (*values, *moments), strict=True)}


def bn_inputs(value: str, prefix: str) -> str:
    return " ".join([value, *(f"{prefix}/{n}" for n in ("scale", "shift", "mean", "var"))])


def initializers(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def conv_bn(**options: Any) -> onnx.ModelProto:
    """Conv → BatchNormalization → Relu: one exact rewrite folds the second into the first."""
    dtype = options.get("dtype", np.float32)
    weights = {"w": weight(8, 8, 3, 3).astype(dtype), **batch_norm("bn", 8, dtype)}
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", bn_inputs("c", "bn"), "n", "bn"),
        node("Relu", "n", "y", "relu"),
    ]
    return model(nodes, weights, **{"outputs": {"y": [1, 8, 8, 8]}, **options})


def nothing_to_do(**options: Any) -> onnx.ModelProto:
    """A Conv that no exact rewrite improves."""
    nodes = [node("Conv", "x w", "c", "conv", pads=[1, 1, 1, 1]), node("Relu", "c", "y", "relu")]
    return model(nodes, {"w": weight(8, 8, 3, 3)}, **options)


def classifier(batch: int | str = "N", channels: int = 16, prefix: str = "") -> onnx.ModelProto:
    """Two 3x3 convolutions and a Gemm: class scores [N, 5], and something for a budget to cut."""
    nodes = [
        node("Conv", "x w1 b1", "c1", f"{prefix}conv1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1", f"{prefix}relu1"),
        node("Conv", "r1 w2", "c2", f"{prefix}conv2", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", bn_inputs("c2", "bn"), "n2", f"{prefix}bn"),
        node("Relu", "n2", "r2", f"{prefix}relu2"),
        node("GlobalAveragePool", "r2", "p", f"{prefix}pool"),
        node("Flatten", "p", "f", f"{prefix}flatten"),
        node("Gemm", "f wg bg", "scores", f"{prefix}gemm", transB=1),
    ]
    weights = {
        "w1": weight(channels, 8, 3, 3, seed=1),
        "b1": weight(channels, seed=2),
        "w2": weight(channels, channels, 3, 3, seed=3),
        "wg": weight(5, channels, seed=4),
        "bg": weight(5, seed=5),
        **batch_norm("bn", channels),
    }
    return model(nodes, weights, inputs={"x": [batch, 8, 8, 8]}, outputs={"scores": [batch, 5]})


def samples(count: int, *shape: int, seed: int = 7) -> Array:
    return rng(seed).standard_normal((count, *(shape or (8, 8, 8)))).astype(np.float32)


def saved(proto: onnx.ModelProto, path: Path, **options: Any) -> Path:
    onnx.save(proto, path, **options)
    return path


# ---------------------------------------------------------------- models operator by operator


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
        dtype = self.dtype if kind is None else helper.tensor_dtype_to_np_dtype(kind)
        self.inputs.append(info(name, list(shape), dtype))
        if len(shape) > 1 and isinstance(shape[1], int):
            self.channels[name] = shape[1]
        return name

    def const(self, array: npt.ArrayLike, name: str | None = None, *, overridable: bool = False) -> str:
        """An initializer; floats get the model's type. Axis 1 holds the channels."""
        name = name or self.fresh("w")
        values = self._cast(array)
        self.initializers.append(numpy_helper.from_array(values, name))
        if values.ndim > 1:
            self.channels[name] = values.shape[1]
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
        channels: int | None = None,
        **attrs: Any,
    ) -> str:
        """Any operator; of several outputs the first is returned, and the n-th is called ``<first>_n``.

        It has the channels of its first input where it is not told, and those of all its inputs in a Concat.
        """
        first = self.fresh("t")
        outs = [first, *(f"{first}_{i}" for i in range(1, outputs))]
        name = self.fresh(kind) if name is None else name
        self.nodes.append(helper.make_node(kind, list(inputs), outs, name=name, domain=domain, **attrs))
        known = [self.channels.get(value) for value in inputs[: None if kind == "Concat" else 1]]
        if channels is not None:
            self.channels[first] = channels
        elif known and None not in known:
            self.channels[first] = sum(known) if attrs.get("axis") in (1, -3) else known[0]
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

    def split(self, x: str, *sizes: int, axis: int = 1) -> list[str]:
        """A Split into channels of these sizes, in the form that the opset has."""
        if self.opset < 13:
            y = self.op("Split", x, outputs=len(sizes), axis=axis, split=list(sizes))
        else:
            y = self.op("Split", x, self.const(np.array(sizes)), outputs=len(sizes), axis=axis)
        parts = [y, *(f"{y}_{i}" for i in range(1, len(sizes)))]
        self.channels.update(zip(parts, sizes, strict=True))
        return parts

    def scales(self, *factors: float) -> str:
        """Scales of a Resize, which are float32 whatever the model's type."""
        name = self.fresh("scales")
        self.initializers.append(numpy_helper.from_array(np.array(factors, np.float32), name))
        return name

    def resize(
        self, x: str, scales: Sequence[float], *, sizes: Sequence[int] | None = None, **attrs: Any
    ) -> str:
        """A Resize or Upsample in the form that the opset has; scales of the spatial axes."""
        factors = [*([] if "axes" in attrs else [1, 1]), *scales]
        if self.opset < 9:
            return self.op("Upsample", x, scales=[float(v) for v in factors], **attrs)
        if self.opset < 11:
            return self.op("Upsample" if self.opset == 9 else "Resize", x, self.scales(*factors), **attrs)
        if sizes is not None:
            return self.op("Resize", x, "", "", self.const(np.array(sizes, np.int64)), **attrs)
        crops = attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        roi = self.scales(0, 0, -0.2, 0.1, 1, 1, 1.3, 0.8) if crops else ""
        return self.op("Resize", x, roi, self.scales(*factors), **attrs)

    def quantised(self, x: str) -> str:
        """A QuantizeLinear and its DequantizeLinear."""
        scale, zero = self.const(np.array(0.05)), self.const(np.array(0, np.int8))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, scale, zero), scale, zero)

    def inside(self, number: int) -> Net:
        """A net for a body in this one: the same channels, other weights, and new names."""
        inner = Net(self.opset, self.dtype, seed=number)
        inner.channels.update(self.channels)
        inner._first = 100 * number
        return inner

    def body(
        self,
        name: str,
        *outputs: str,
        inputs: Sequence[onnx.ValueInfoProto] = (),
        infos: Sequence[onnx.ValueInfoProto] = (),
    ) -> onnx.GraphProto:
        """The operators added so far as a subgraph; what it reads and does not make it captures."""
        infos = infos or [info(output, None, self.dtype) for output in outputs]
        return helper.make_graph(self.nodes, name, inputs, infos, self.initializers)

    def choose(self, branch: Callable[[Net], str], otherwise: Callable[[Net], str] | None = None) -> str:
        """An If on an input "flag"; both branches are made alike where only one is given."""
        self.input([], "flag", TensorProto.BOOL)
        bodies = []
        for number, make in enumerate((branch, otherwise or branch), start=1):
            inner = self.inside(number)
            bodies.append(inner.body("branch", make(inner)))
        return self.op("If", "flag", then_branch=bodies[0], else_branch=bodies[1], name="choice")

    # -------------------------------------------------- the model

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished model, its outputs with inferred shapes."""
        inputs = list(self.inputs)
        for tensor in self.initializers:
            if self.ir_version < 4 or tensor.name in self.overridable:
                inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        infos = [info(output, None, self.dtype) for output in outputs]
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
            model.graph.output.extend(
                info(name, [None] * array.ndim, array.dtype)
                for name, array in zip(outputs, arrays, strict=True)
            )
        return model

    def fresh(self, prefix: str) -> str:
        """A name that is not taken."""
        self._count[prefix] += 1
        return f"{prefix}{self._first + self._count[prefix]}"

    def _cast(self, array: npt.ArrayLike) -> Array:
        values = np.asarray(array)
        return np.asarray(values, self.dtype if values.dtype.kind == "f" else values.dtype, order="C")


def taps(*kernel: int, **options: Any) -> dict[str, Any]:
    """Options of `Net.conv`."""
    return {"kernel": kernel, **options}


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


def session(model: onnx.ModelProto | Path, *, optimised: bool = False) -> ort.InferenceSession:
    """A quiet single-threaded session."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    given = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | Path, feeds: Mapping[str, Array], *, optimised: bool = False) -> list[Array]:
    """The outputs of one run."""
    return list(session(model, optimised=optimised).run(None, dict(feeds)))


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

    Independent of graphopt's own counter. Of an If the dearer branch counts, whichever the feeds take, and
    the body of a Loop for each trip; with ``only`` each operator once.

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
            [info(name, known[name].shape, known[name].dtype) for name in (*own, *captured) if name in known],
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
        inner = [
            _graph_macs(model, body, {**values, **_body_inputs(node, body, values)}, only)
            for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
        ]
        if only is not None:
            total += sum(inner)
        elif inner:
            trips = int(values[node.input[0]]) if node.op_type == "Loop" else 1
            total += max(inner) * trips
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
    saves: bool | None = None,
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
        saves: whether what is applied has to leave fewer MACs (True), or as many (False).
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
    every = registry(options.get("rewrites", ()))
    if not any(getattr(every[name], "adds", False) for name in found):
        assert counted[1] <= counted[0]
    assert saves is None or not found or (counted[1] < counted[0]) is saves
    assert bool(found) == result.report.changed or options.get("freeze_initializers")
    return Checked(model, after, result.report, counted[0], counted[1], found)


def alone(
    rewrite: str,
    given: Net | onnx.ModelProto,
    *outputs: str,
    number: int = 1,
    because: Sequence[str] | None = None,
    together: bool = False,
    **options: Any,
) -> Checked:
    """`check` with one rewrite alone.

    Args:
        rewrite: its name.
        given: the model, or a net and the ``outputs`` that its model has.
        number: how often it has to be applied, unless ``applied`` says it.
        because: parts of one reason against it; where empty, there must be no reason.
        together: whether all rewrites have to leave no more MACs than this one alone.
        options: of `check`.
    """
    model = given.model(*outputs) if isinstance(given, Net) else given
    limits = {"only": [rewrite], "applied": {rewrite: number} if number else {}}
    result = check(model, **{**limits, **options})
    if because is not None:
        assert result.refused(rewrite, *because) if because else result.reasons(rewrite) == []
    if together:
        others = {k: v for k, v in options.items() if k not in ("only", "applied", "macs_after", "saves")}
        assert check(model, **others).macs_after <= result.macs_after
    return result


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
            assert_same(expected, candidate.run(None, feed))


def compare_at_sizes(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    sizes: Iterable[Mapping[str, int]],
    tolerance: float | None = None,
) -> int:
    """Asserts that the models compute the same at all sizes at which the first runs, empty outputs too.

    Args:
        before: the model as given.
        after: what was made of it.
        sizes: of symbolic dimensions; 1 where not given.
        tolerance: largest difference relative to max|y|; that of the type where not given.

    Returns:
        The number of sizes at which the first runs.
    """
    reference, candidate, count = session(before), session(after), 0
    for each in sizes:
        feed = make_feeds(before, each)
        try:
            expected = reference.run(None, feed)
        except Exception:  # onnxruntime has no common class of them
            continue
        assert_same(expected, candidate.run(None, feed), tolerance, where=f" at {dict(each)}")
        count += 1
    return count


def grid(*names: str, sizes: Sequence[int] = (1, 2, 3, 4, 5, 8, 9)) -> list[dict[str, int]]:
    """Every combination of some sizes for symbolic dimensions of these names."""
    return [dict(zip(names, each, strict=True)) for each in product(sizes, repeat=len(names))]


def assert_same(
    expected: Sequence[Array], found: Sequence[Array], tolerance: float | None = None, where: str = ""
) -> None:
    """Asserts that outputs have the same shapes, types and, up to rounding, content."""
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, f"{b.shape} instead of {a.shape}{where}"
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        wide, other = a.astype(np.float64), b.astype(np.float64)
        scale = np.abs(wide).max(initial=0.0)
        gap = np.abs(wide - other).max(initial=0.0)
        allowed = TOLERANCE[a.dtype.name] if tolerance is None else tolerance
        assert gap <= allowed * scale, f"{gap / scale:.2e} relative{where}"
