"""Functions between two convolutions, and the kernels that onnxruntime makes of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

import graphopt
from tests.builders import Net, assert_same, make_feeds, run

Number: TypeAlias = Callable[[npt.ArrayLike], str]
Write: TypeAlias = Callable[[Net, str, Number], str]


def between(write: Write, dtype: Any = np.float32, opset: int = 17, size: int = 6) -> onnx.ModelProto:
    """What is written, between two 1x1 convolutions, of 16 channels of this size."""
    net = Net(opset, dtype)
    x = net.conv(net.input(["N", 8, size, size]), 16, (1, 1))
    y = write(net, x, lambda value: net.const(np.asarray(value, dtype)))
    net.channels[y] = 16
    return net.model(net.conv(y, 4, (1, 1)))


def exponent(net: Net, number: float) -> str:
    """An exponent of float32, whatever type a model has."""
    net.initializers.append(onnx.numpy_helper.from_array(np.array(number, np.float32), "exponent"))
    return "exponent"


def kernels(proto: onnx.ModelProto) -> list[str]:
    """What onnxruntime runs, but for changes of layout."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    return [kind for kind in kinds if not kind.startswith("Reorder")]


def respelled(name: str, before: onnx.ModelProto, aim: str = "time") -> onnx.ModelProto:
    """What one rewrite makes of a model, once, and no more at a second run."""
    result = graphopt.optimize(before, only=[name], aim=aim)
    assert not any("verification" in each.reason for each in result.report.declined)
    after = ir.to_proto(result.model)
    feeds = make_feeds(before, {"N": 3})
    assert_same(run(before, feeds), run(after, feeds))
    assert result.report.after.macs == result.report.before.macs
    assert not graphopt.optimize(after, only=[name], aim=aim).report.changed
    return after


def kinds(proto: onnx.ModelProto) -> list[str]:
    """The operators between the convolutions."""
    return [node.op_type for node in proto.graph.node[1:-1]]
