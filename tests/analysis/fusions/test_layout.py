"""Which values change their layout, against the graphs that onnxruntime makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.analysis.fusions.layout import Layout
from graphopt.analysis.snapshot import Analysis
from tests.builders import Net

CHANNELS = 32
SIZE = 12
Added = Callable[[Net, str], str]


def conv(net: Net, x: str, out: int = CHANNELS) -> str:
    return net.conv(x, out, (1, 3), pads=[0, 1, 0, 1])


def residual(net: Net, x: str) -> str:
    y = net.op("Relu", conv(net, x))
    return conv(net, net.op("Relu", net.op("Add", conv(net, y), y)))


def gated(net: Net, x: str) -> str:
    y = conv(net, x)
    means = conv(net, net.op("GlobalAveragePool", y))
    return conv(net, net.op("Mul", y, net.op("Sigmoid", means)))


def halves(net: Net, x: str) -> str:
    first, second = net.split(conv(net, x), 16, 16)
    return conv(net, net.op("Add", first, second))


def joined(net: Net, x: str) -> str:
    y = conv(net, x)
    return conv(net, net.op("Concat", y, net.op("Relu", conv(net, y, 16)), axis=1))


def gelu(net: Net, x: str) -> str:
    y = conv(net, x)
    erf = net.op("Erf", net.affine("Div", y, np.sqrt(2)))
    return conv(net, net.affine("Mul", net.op("Mul", y, net.affine("Add", erf, 1.0)), 0.5))


def silu(net: Net, x: str) -> str:
    y = conv(net, x)
    return conv(net, net.op("Mul", y, net.op("Sigmoid", y)))


def behind(kind: str, **attrs: object) -> Added:
    """An operator between two convolutions, which alone reads the first."""
    return lambda net, x: conv(net, net.op(kind, conv(net, x), **attrs))


def beside(kind: str, **attrs: object) -> Added:
    """An operator on a blocked value that a convolution reads as well."""

    def added(net: Net, x: str) -> str:
        y = conv(net, x)
        return net.op("Sub", conv(net, net.op(kind, y, **attrs)), conv(net, y))

    return added


REGIONS: dict[str, Added] = {
    "one": conv,
    "two": lambda net, x: conv(net, net.op("Relu", conv(net, x))),
    "few channels": lambda net, x: conv(net, conv(net, conv(net, x, 4), 4)),
    "residual": residual,
    "gated": gated,
    "halves": halves,
    "joined": joined,
    "gelu": gelu,
    "silu": silu,
    "normalised": lambda net, x: conv(net, net.bn(net.op("Relu", conv(net, x)))),
    "scaled": lambda net, x: conv(
        net, net.affine("Mul", net.op("Relu", conv(net, x)), net.per_channel(CHANNELS))
    ),
    "shifted": lambda net, x: conv(
        net, net.affine("Add", net.op("Relu", conv(net, x)), net.per_channel(CHANNELS))
    ),
    "transposed": lambda net, x: conv(net, net.conv(conv(net, x), CHANNELS, (1, 2), transpose=True)),
    "pooled": lambda net, x: net.op("MaxPool", conv(net, x), kernel_shape=[1, 2]),
    "pooled first": lambda net, x: conv(net, net.op("AveragePool", x, kernel_shape=[1, 2])),
    **{f"{kind} behind": behind(kind) for kind in ("LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Elu")},
    **{f"{kind} beside": beside(kind) for kind in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Neg")},
}


def reorders(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators of the graph that onnxruntime makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "made.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "made.onnx").graph.node)


@pytest.mark.parametrize("name", REGIONS)
def test_as_many_values_move_as_onnxruntime_moves(name: str, tmp_path: Path) -> None:
    net = Net()
    proto = net.model(REGIONS[name](net, net.input([1, CHANNELS, 1, SIZE])))
    made = reorders(proto, tmp_path)
    if not made["ReorderOutput"]:
        pytest.skip("this processor has no blocked kernels")
    analysis = Analysis(ir.from_proto(proto))
    moved = Layout(analysis, list(analysis.nodes.values())).moved
    assert len(moved) == made["ReorderInput"] + made["ReorderOutput"], made


def test_a_map_may_be_taken_to_have_other_channels() -> None:
    net = Net()
    y = net.op("Relu", conv(net, net.input([1, CHANNELS, 1, SIZE]), 58))
    y = conv(net, net.conv(y, 58, (1, 3), group=58, pads=[0, 1, 0, 1]))
    analysis = Analysis(ir.from_proto(net.model(y)))
    nodes = list(analysis.nodes.values())
    maps = [node.outputs[0] for node in nodes[:3]]
    apart, together = (Layout(analysis, nodes, wider).moved for wider in ({}, dict.fromkeys(maps, 60)))
    assert set(maps) & set(apart) and not set(maps) & set(together)
