"""What counts as one kernel, against the graphs that onnxruntime makes of every spelling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import graphopt
from graphopt.analysis.fusions.fused import Fusions
from graphopt.analysis.snapshot import Analysis
from tests.builders import Net, assert_same, make_feeds, run

CHANNELS = 16
Spelled = Callable[[Net, str], str]
KERNELS = {
    "Gelu": "GELU",
    "FastGelu": "GELU",
    "QuickGelu": "SiLU",
    "LayerNormalization": "LayerNormalization",
    "SimplifiedLayerNormalization": "LayerNormalization",
}
"""What onnxruntime calls its fused operators, and what they are called here."""


def number(net: Net, value: float) -> str:
    return net.const(np.float32(value))


def channels(net: Net, low: float) -> str:
    return net.const(np.linspace(low, low + 1, CHANNELS, dtype=np.float32))


def product(net: Net, order: str, x: str, plus: str) -> str:
    """x, 1 + f(x) and a half, multiplied in an order."""
    half = number(net, 0.5)
    if order == "first":
        return net.op("Mul", net.op("Mul", x, half), plus)
    if order == "last":
        return net.op("Mul", net.op("Mul", plus, x), half)
    return net.op("Mul", x, net.op("Mul", plus, half))


def by_erf(order: str, scale: str) -> Spelled:
    def spelled(net: Net, x: str) -> str:
        root = number(net, 2**0.5 if scale == "Div" else 2**-0.5)
        return product(net, order, x, net.op("Add", net.op("Erf", net.op(scale, x, root)), number(net, 1)))

    return spelled


def by_tanh(order: str, cube: str) -> Spelled:
    def spelled(net: Net, x: str) -> str:
        third = net.op("Pow", x, number(net, 3)) if cube == "Pow" else net.op("Mul", net.op("Mul", x, x), x)
        total = net.op("Add", x, net.op("Mul", third, number(net, 0.044715)))
        tanh = net.op("Tanh", net.op("Mul", total, number(net, (2 / np.pi) ** 0.5)))
        return product(net, order, x, net.op("Add", tanh, number(net, 1)))

    return spelled


def layer_norm(
    square: str = "Pow", tail: str = "Mul Add", *, twice: bool = False, centred: bool = True
) -> Spelled:
    def spelled(net: Net, x: str) -> str:
        first = second = x
        if centred:
            mean = net.op("ReduceMean", x, axes=[-1])
            first = net.op("Sub", x, mean)
            second = net.op("Sub", x, mean) if twice else first
        squared = net.op("Pow", first, number(net, 2)) if square == "Pow" else net.op("Mul", first, first)
        variance = net.op("Add", net.op("ReduceMean", squared, axes=[-1]), number(net, 1e-5))
        y = net.op("Div", second, net.op("Sqrt", variance))
        for low, kind in enumerate(tail.split(), 1):
            y = net.op(kind, y, channels(net, low))
        return y

    return spelled


def silu(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


def gated(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", net.op("Neg", x)))


SPELLINGS: dict[str, Spelled] = {
    **{
        f"erf, half {order}, {scale}": by_erf(order, scale)
        for order, scale in itertools.product(("first", "last", "inside"), ("Div", "Mul"))
    },
    **{
        f"tanh, half {order}, {cube}": by_tanh(order, cube)
        for order, cube in itertools.product(("first", "last", "inside"), ("Pow", "Mul"))
    },
    "layer norm": layer_norm(),
    "layer norm, centred twice": layer_norm(twice=True),
    "layer norm, squared by Mul": layer_norm("Mul"),
    "layer norm without shift": layer_norm(tail="Mul"),
    "layer norm without scale": layer_norm(tail="Add"),
    "layer norm without either": layer_norm(tail=""),
    "mean square": layer_norm(tail="Mul", centred=False),
    "mean square, squared by Mul": layer_norm("Mul", tail="Mul", centred=False),
    "silu": silu,
    "gated by another": gated,
}


def model(spelled: Spelled) -> onnx.ModelProto:
    """A spelling between two MatMuls."""
    net = Net()
    weights = [net.const(net.weights(CHANNELS, CHANNELS).astype(np.float32)) for _ in range(2)]
    x = net.op("MatMul", net.input([1, 8, CHANNELS]), weights[0], name="before")
    return net.model(net.op("MatMul", spelled(net, x), weights[1], name="behind"))


def kernels(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that onnxruntime runs at full optimisation, by kind."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_fused_is_what_onnxruntime_fuses(spelled: Spelled, tmp_path: Path) -> None:
    proto = model(spelled)
    theirs = [KERNELS[kind] for kind in kernels(proto, tmp_path) if kind in KERNELS]
    assert [fused.kernel for fused in Fusions(Analysis(ir.from_proto(proto))).kernels] == theirs


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_no_fused_kernel_is_lost(spelled: Spelled, tmp_path: Path) -> None:
    before = model(spelled)
    after = ir.to_proto(graphopt.optimize(before).model)
    old, new = kernels(before, tmp_path), kernels(after, tmp_path)
    kept = [kind for kind in new if kind in KERNELS]
    gained = kept in (["Gelu"], ["FastGelu"], ["LayerNormalization"])
    assert gained or kept == [kind for kind in old if kind in KERNELS]
    assert len(new) <= len(old)
    feeds = make_feeds(before)
    assert_same(run(before, feeds), run(after, feeds))


def test_the_aim_macs_breaks_a_kernel_and_the_default_says_so(tmp_path: Path) -> None:
    before = model(SPELLINGS["erf, half last, Div"])
    result = graphopt.optimize(before)
    (left,) = [each for each in result.report.declined if each.rewrite == "fold_affine_before"]
    assert left.reason.endswith(
        "4 other operators as one kernel (GELU), which it would break: the aim macs takes it"
    )
    broken = ir.to_proto(graphopt.optimize(before, aim="macs").model)
    assert "Gelu" in kernels(before, tmp_path) and "Gelu" not in kernels(broken, tmp_path)
