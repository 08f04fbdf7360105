"""lossless_bottleneck: a convolution of low numerical rank becomes thinner ones, without loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import numpy_helper

import graphopt
from tests.builders import NEWEST_OPSET, Checked, Net, alone, low_rank

OPSETS = (7, 9, 11, 13, 17, 18, NEWEST_OPSET)


checked = partial(alone, "lossless_bottleneck")
left_alone = partial(checked, number=0)


def split(net: Net, *outputs: str, operators: int, **options: Any) -> Checked:
    """Checks a model whose only convolution becomes so many."""
    result = checked(net, *outputs, saves=True, **options)
    assert result.ops["Conv"] + result.ops["ConvTranspose"] == operators
    return result


def test_the_classic_example() -> None:
    """5x5, 192→32 on 28×28 with padding 2, whose weights have input rank 16."""
    net = Net()
    x = net.input([1, 192, 28, 28])
    y = net.conv(x, 32, weight=low_rank(net, 32, 192, (5, 5), rank_in=16), pads=[2, 2, 2, 2], name="conv")
    result = split(net, y, operators=2, macs_after=12_443_648)
    assert result.macs_before == result.report.before.macs == 120_422_400
    (applied,) = result.report.applied
    assert applied.candidate.choice == {"rank_in": 16, "rank_out": 0}
    assert (applied.candidate.before.macs, applied.candidate.after.macs) == (120_422_400, 12_443_648)
    assert result.report.passed and result.report.checks
    assert [node.name for node in result.after.graph.node] == ["conv/reduce", "conv"]


# ---------------------------------------------------------------- what splits

RANKS = {
    "input": ({"rank_in": 3}, 2),
    "output": ({"rank_out": 3}, 2),
    "both": ({"rank_in": 3, "rank_out": 4}, 3),
}

FORMS: dict[str, dict[str, Any]] = {
    "1d": {"shape": [2, 24, 13], "kernel": (5,), "pads": [2, 2]},
    "2d": {"shape": [2, 24, 9, 9], "kernel": (3, 3), "pads": [1, 1, 1, 1]},
    "3d": {"shape": [1, 24, 5, 6, 5], "kernel": (3, 2, 3)},
    "stride": {"shape": [1, 24, 10, 11], "kernel": (5, 5), "strides": [2, 1], "pads": [2, 2, 2, 2]},
    "dilation": {"shape": [1, 24, 11, 12], "kernel": (3, 3), "dilations": [2, 3]},
    "asymmetric pads": {"shape": [1, 24, 9, 9], "kernel": (3, 3), "pads": [0, 2, 1, 1]},
    "same": {"shape": [1, 24, 10, 9], "kernel": (5, 5), "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "valid": {"shape": [1, 24, 9, 9], "kernel": (3, 3), "auto_pad": "VALID"},
    "no bias": {"shape": [1, 24, 9, 9], "kernel": (3, 3), "bias": False},
    "empty bias": {"shape": [1, 24, 9, 9], "kernel": (3, 3), "bias": ""},
    "transpose": {"shape": [1, 24, 6, 6], "kernel": (3, 3), "transpose": True, "strides": [2, 2]},
    "transpose pads": {
        "shape": [1, 24, 6, 7],
        "kernel": (4, 3),
        "transpose": True,
        "strides": [2, 1],
        "pads": [1, 0, 0, 1],
        "output_padding": [1, 0],
    },
}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_convolution(form: str, ranks: str) -> None:
    options = dict(FORMS[form])
    shape, kernel = options.pop("shape"), options.pop("kernel")
    (cuts, operators), net = RANKS[ranks], Net()
    x = net.input(shape)
    weight = low_rank(net, 20, 24, kernel, **cuts)
    if options.get("transpose"):
        weight = np.ascontiguousarray(weight.swapaxes(0, 1))
    result = split(net, net.conv(x, 20, kernel, weight=weight, **options), operators=operators)
    (applied,) = result.report.applied
    assert {k: v for k, v in applied.candidate.choice.items() if v} == cuts


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("opset", "dtype"), [*((opset, np.float32) for opset in OPSETS), (17, np.float16)])
def test_every_opset_and_half_precision(opset: int, dtype: npt.DTypeLike, ranks: str) -> None:
    cuts, operators = RANKS[ranks]
    net = Net(opset, dtype)
    x = net.input([2, 24, 9, 9])
    result = split(net, net.conv(x, 20, weight=low_rank(net, 20, 24, (3, 3), **cuts)), operators=operators)
    (applied,) = result.report.applied
    assert {k: v for k, v in applied.candidate.choice.items() if v} == cuts


def test_pointwise_becomes_two_thinner_ones() -> None:
    net = Net()
    y = net.conv(net.input([1, 32, 6, 6]), 32, weight=low_rank(net, 32, 32, (1, 1), rank_in=5))
    split(net, y, operators=2, macs_after=36 * 5 * 64)


def test_the_larger_of_two_savings_is_taken() -> None:
    """Rank 6 in, rank 2 out: the cut of both sides is weighed against each."""
    net = Net()
    y = net.conv(net.input([1, 24, 9, 9]), 24, weight=low_rank(net, 24, 24, (3, 3), rank_in=6, rank_out=2))
    both = 81 * 24 * 6 + 49 * 9 * 6 * 2 + 49 * 2 * 24
    out_only = 49 * 9 * 24 * 2 + 49 * 2 * 24
    split(net, y, operators=3, macs_after=min(both, out_only))


def test_weights_of_zero_are_left_to_what_drops_the_operator() -> None:
    net = Net()
    model = net.model(net.conv(net.input([1, 8, 6, 6]), 8, weight=np.zeros((8, 8, 3, 3))))
    alone = graphopt.optimize(model, only=["lossless_bottleneck"]).report
    assert not alone.applied and alone.rejected[0].reason.endswith("its weights are 0")
    (applied,) = graphopt.optimize(model, aim="macs").report.applied
    assert applied.candidate.rewrite == "drop_zero_convolution" and applied.candidate.after.macs == 0


def test_shared_weights_and_weights_behind_operators() -> None:
    net = Net()
    x = net.input([1, 24, 9, 9])
    stored = net.const(low_rank(net, 24, 24, (3, 3), rank_in=3).transpose(1, 0, 2, 3))
    weight = net.op("Transpose", stored, perm=[1, 0, 2, 3])
    y = net.conv(x, 24, weight=weight, pads=[1] * 4)
    result = checked(net, net.conv(net.op("Relu", y), 24, weight=weight, pads=[1] * 4), number=2)
    assert result.ops == {"Conv": 4, "Relu": 1}


def test_weights_in_constant_nodes() -> None:
    net = Net()
    x = net.input([1, 24, 9, 9])
    weight = net.constant_node(low_rank(net, 20, 24, (3, 3), rank_out=3))
    split(net, net.conv(x, 20, weight=weight, bias=net.constant_node(net.normal(20))), operators=2)


def test_symbolic_batch_and_open_sizes() -> None:
    net = Net()
    x = net.input(["N", 24, "H", "W"])
    y = net.conv(x, 20, weight=low_rank(net, 20, 24, (3, 3), rank_in=3), pads=[1] * 4)
    dims = split(net, y, operators=2, sizes={"H": 9, "W": 8}).after.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims] == ["N", "", "H", "W"]


def test_inside_if_bodies() -> None:
    net = Net()
    x = net.op("Relu", net.input([1, 24, 9, 9]))
    y = net.choose(lambda n: n.conv(x, 20, weight=low_rank(n, 20, 24, (3, 3), rank_in=3)))
    result = checked(net, y, number=2)
    for attribute in result.node("If").attribute:
        assert [node.op_type for node in attribute.g.node] == ["Conv", "Conv"]


def test_the_aim_of_time_declines_what_it_expects_to_be_slower() -> None:
    """Two operators on a tiny map cost more than one, whatever their MACs."""
    net = Net()
    x = net.input([1, 16, 4, 4])
    model = net.model(net.conv(x, 16, weight=low_rank(net, 16, 16, (3, 3), rank_in=8), pads=[1] * 4))
    left_alone(model, aim="time", because=("slower", "aim macs"))
    checked(model, aim="macs")


# ---------------------------------------------------------------- what does not


def test_full_rank() -> None:
    net = Net()
    left_alone(
        net, net.conv(net.input([1, 24, 9, 9]), 20), because=("Conv1", "input channels", "output channels")
    )


@pytest.mark.parametrize(("rank", "pays"), [(10, True), (11, False)])
def test_break_even(rank: int, pays: bool) -> None:
    """24→20 at 1x1: a rank r pays while r·(24 + 20) < 24·20."""
    net = Net()
    y = net.conv(net.input([1, 24, 5, 5]), 20, weight=low_rank(net, 20, 24, (1, 1), rank_in=rank))
    if pays:
        split(net, y, operators=2, macs_after=25 * rank * 44)
    else:
        left_alone(net, y, because=("Conv1", "10 of 24"))


def test_a_small_but_real_direction_is_kept() -> None:
    """A direction at 1e-4 of the others is no rounding."""
    net = Net()
    x = net.input([1, 24, 9, 9])
    weight = low_rank(net, 20, 24, (3, 3), rank_in=3) + 1e-4 * low_rank(net, 20, 24, (3, 3), rank_in=1)
    result = split(net, net.conv(x, 20, weight=weight), operators=2)
    assert result.report.applied[0].candidate.choice["rank_in"] == 4


def test_noise_above_rounding_is_full_rank() -> None:
    net = Net()
    x = net.input([1, 24, 9, 9])
    weight = low_rank(net, 20, 24, (3, 3), rank_in=3) + 1e-3 * net.weights(20, 24, 3, 3)
    left_alone(net, net.conv(x, 20, weight=weight), because=("Conv1", "not that low"))


def test_depthwise() -> None:
    net = Net()
    y = net.conv(net.input([1, 24, 9, 9]), 24, weight=net.weights(24, 1, 3, 3), group=24)
    left_alone(net, y, because=("Conv1", "depthwise"))


@pytest.mark.parametrize("frozen", [False, True])
def test_overridable_weights(frozen: bool) -> None:
    net = Net()
    x = net.input([1, 24, 9, 9])
    weight = net.const(low_rank(net, 20, 24, (3, 3), rank_in=3), "default_weight", overridable=True)
    y = net.conv(x, 20, weight=weight)
    if frozen:
        result = split(net, y, operators=2, freeze_initializers=True)
        assert [value.name for value in result.after.graph.input] == ["x"]
    else:
        left_alone(net, y, because=("Conv1", "default_weight", "freeze_initializers"))


def test_dynamic_weights() -> None:
    net = Net()
    y = net.conv(net.input([1, 24, 9, 9]), 20, weight=net.input([20, 24, 3, 3], "dynamic"))
    left_alone(net, y, because=("Conv1", "dynamic is computed at run time"))


@pytest.mark.parametrize("where", ["input", "weight", "output"])
def test_quantised_regions(where: str) -> None:
    net = Net()
    x = net.input([1, 24, 9, 9])
    weight = net.const(low_rank(net, 20, 24, (3, 3), rank_in=3))
    if where == "weight":
        weight = net.quantised(weight)
    if where == "input":
        x = net.quantised(x)
    y = net.conv(x, 20, weight=weight)
    if where == "output":
        y = net.quantised(y)
    left_alone(net, y, because=("Conv1", "quantised region"))


def test_a_convolution_of_another_domain_is_opaque() -> None:
    net = Net(ir_version=8)
    x = net.input([1, 24, 9, 9])
    weight = numpy_helper.from_array(low_rank(net, 20, 24, (3, 3), rank_in=3).astype(np.float32), "w")
    net.initializers.append(weight)
    y = net.op("FusedConv", x, "w", domain="com.microsoft", activation="Relu", channels=20)
    assert left_alone(net, net.conv(y, 8, (1, 1))).ops == {"FusedConv": 1, "Conv": 1}


def test_output_of_the_graph_keeps_its_name() -> None:
    net = Net()
    y = net.conv(net.input([1, 24, 9, 9]), 20, weight=low_rank(net, 20, 24, (3, 3), rank_in=3, rank_out=3))
    result = split(net, y, net.op("Relu", y), operators=3)
    outputs: list[str] = [name for node in result.after.graph.node for name in node.output]
    assert y in outputs
