"""Small models for the tests of the flow, and the command line run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence["int | str | None"] | None


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Random weights that neither raise nor lower the variance by much."""
    fan_in = max(1, int(np.prod(shape[1:])))
    return (rng(seed).standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def info(name: str, shape: Shape, dtype: Any = np.float32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; "-" stands for an optional input that is left out."""
    names = ["" if part == "-" else part for part in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=name, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
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


def batch_norm(prefix: str, channels: int, dtype: Any = np.float32, seed: int = 1) -> dict[str, np.ndarray]:
    """Scale, shift, mean and variance of a BatchNormalization, by name."""
    random = rng(seed)
    values = (random.uniform(0.5, 2, channels), random.standard_normal(channels))
    moments = (random.standard_normal(channels), random.uniform(0.5, 2, channels))
    names = ("scale", "shift", "mean", "var")
    return {f"{prefix}/{n}": v.astype(dtype) for n, v in zip(names, (*values, *moments), strict=True)}


def bn_inputs(value: str, prefix: str) -> str:
    return " ".join([value, *(f"{prefix}/{n}" for n in ("scale", "shift", "mean", "var"))])


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


def samples(count: int, *shape: int, seed: int = 7) -> np.ndarray:
    return rng(seed).standard_normal((count, *(shape or (8, 8, 8)))).astype(np.float32)


def saved(proto: onnx.ModelProto, path: Path, **options: Any) -> Path:
    onnx.save(proto, path, **options)
    return path


def run_onnx(proto: onnx.ModelProto | str | Path, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs in onnxruntime, which leaves the graph as it is."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    given = proto.SerializeToString() if isinstance(proto, onnx.ModelProto) else str(proto)
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def cli(*arguments: object) -> Ran:
    """The command line, run in this process."""
    from graphopt.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    argv = ["graphopt", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Ran(code, out.getvalue(), err.getvalue())


INT64 = TensorProto.INT64
