"""All rewrites at once: the same MACs in any order, nothing left for a second run, and traps stay traps."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import graphopt
from graphopt.rewrites import registry
from tests.builders import Net, check, low_rank, make_feeds
from tests.places import SHARED

Case: TypeAlias = tuple[onnx.ModelProto, int | None]
"""A model, and the MACs that have to be left at the sizes of the feeds; None where they stay as they are."""

SIZES = {"N": 1, "H": 9, "W": 8}
PADS = [1, 1, 1, 1]
OTHER_SIZES = {"sum_that_broadcasts": ({"H": 1, "W": 1}, {"H": 8, "W": 1}, {"H": 8, "W": 8})}
"""Sizes of the feeds, where `SIZES` are none that the graph takes."""
SAVINGS: dict[str, Callable[[], Case]] = {}
TRAPS: dict[str, Callable[[], Case]] = {}
SHUFFLES = (1, 2)


def case(cases: dict[str, Callable[[], Case]], opset: int = 13, **options: Any) -> Any:
    """Registers what builds a graph in a net of that opset."""

    def register(build: Callable[[Net], Case]) -> None:
        cases[build.__name__] = lambda: build(Net(opset, **options))

    return register


saving = partial(case, SAVINGS)
"""Registers a graph with an exact saving."""
trap = partial(case, TRAPS)
"""Registers a graph on which the naive rewrite is wrong."""


def image(net: Net, channels: int = 4, name: str = "x") -> str:
    """An input with an open batch and open spatial sizes."""
    return net.input(["N", channels, "H", "W"], name)


def relu(net: Net, x: str) -> str:
    return net.op("Relu", x)


def named(net: Net, value: str, channels: int) -> str:
    net.channels[value] = channels
    return value


def nearest(net: Net, x: str, factor: float) -> str:
    scales = net.const(np.array([1, 1, factor, factor], np.float32))
    modes = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    return net.op("Resize", x, "", scales, mode="nearest", **modes)


# ---------------------------------------------------------------- savings, at N=1, H=9, W=8


@saving()
def chain_of_five_1d(net: Net) -> Case:
    """The cheapest cut of a chain is found: 6 → 3 → 12."""
    y = net.input([1, 6, 10])
    for channels in (20, 8, 30, 3, 12):
        y = net.conv(y, channels, (1,))
    return net.model(y), (6 * 3 + 3 * 12) * 10


@saving(17)
def bias_at_an_asymmetric_border(net: Net) -> Case:
    y = net.conv(net.input([2, 4, 9, 11]), 40, (1, 1))
    y = net.conv(y, 4, (3, 2), pads=[2, 0, 3, 1], dilations=[2, 1], strides=[2, 1])
    return net.model(y), 2 * 4 * 4 * 6 * 5 * 11


@saving(17)
def bias_at_a_border_of_open_size(net: Net) -> Case:
    return net.model(net.conv(net.conv(image(net), 40, (1, 1)), 4, pads=PADS)), 16 * 9 * 72 + 4 * 9 * 72


@saving()
def split_behind_a_wide_one(net: Net) -> Case:
    first, second = net.split(net.conv(image(net), 60, (1, 1)), 20, 40)
    return net.model(net.conv(first, 3, (1, 1)), net.conv(second, 4, bias=False)), (12 * 72 + 144 * 42)


@saving()
def pixel_shuffle_between(net: Net) -> Case:
    y = named(net, net.op("DepthToSpace", net.conv(image(net), 64, (1, 1)), blocksize=2, mode="CRD"), 16)
    return net.model(net.conv(y, 2, (1, 1))), 4 * 8 * 72


@saving()
def transposed_with_output_padding(net: Net) -> Case:
    y = net.conv(image(net), 40, (1, 1), bias=False)
    y = net.conv(y, 3, transpose=True, strides=[2, 2], pads=PADS, output_padding=[1, 1])
    return net.model(y), 4 * 3 * 9 * 72


@saving(17)
def shared_middle_of_three(net: Net) -> Case:
    y = net.conv(image(net), 40, (1, 1))
    return net.model(*(net.op("Sigmoid", net.conv(y, out, (1, 1))) for out in (3, 4, 5))), 4 * 12 * 72


@saving(17)
def sesr(net: Net) -> Case:
    """Collapsible blocks: k×k wide → 1x1, with short residuals, and a pixel shuffle."""
    y = net.conv(net.conv(image(net, 3), 32, (5, 5), pads=[2] * 4), 8, (1, 1))
    for _ in range(2):
        block = net.conv(net.conv(y, 32, pads=PADS), 8, (1, 1))
        y = named(net, net.op("PRelu", net.op("Add", block, y), net.const(net.per_channel(8)[0])), 8)
    y = net.conv(net.conv(y, 32, (5, 5), pads=[2] * 4), 12, (1, 1))
    return net.model(net.op("DepthToSpace", y, blocksize=2)), 72 * (25 * 24 + 2 * 9 * 64 + 25 * 96)


@saving()
def repvgg(net: Net) -> Case:
    x, inside, pixels, total = image(net, 3), 3, 72, 0
    for out, stride in ((8, 2), (8, 1)):
        pixels = 20 if stride == 2 else pixels
        total += 9 * inside * out * pixels
        y = net.bn(net.conv(x, out, pads=PADS, strides=[stride, stride], bias=False))
        y = net.op("Add", y, net.bn(net.conv(x, out, (1, 1), strides=[stride, stride], bias=False)))
        y = net.op("Add", y, net.bn(x)) if inside == out else y
        x, inside = named(net, relu(net, y), out), out
    return net.model(x), total


@saving()
def mobileone(net: Net) -> Case:
    x = image(net, 8)
    branches = [net.bn(net.conv(x, 8, pads=PADS, group=8, bias=False)) for _ in range(3)]
    y = net.op("Sum", *branches, net.bn(net.conv(x, 8, (1, 1), group=8)), net.bn(x))
    x = named(net, relu(net, y), 8)
    y = net.op("Add", net.bn(net.conv(x, 12, (1, 1))), net.bn(net.conv(x, 12, (1, 1))))
    return net.model(relu(net, y)), 72 * (72 + 96)


@saving(17)
def edge_block(net: Net) -> Case:
    """ECBSR: a 3x3, a wide 1x1 → 3x3, and three 1x1 → depthwise 3x3, all with biases."""
    x = image(net, 8)
    branches = [net.conv(x, 8, pads=PADS), net.conv(net.conv(x, 16, (1, 1)), 8, pads=PADS)]
    branches += [net.conv(net.conv(x, 8, (1, 1)), 8, pads=PADS, group=8) for _ in range(3)]
    return net.model(relu(net, net.op("Sum", *branches))), (9 * 64 + 9 * 8) * 72


@saving(17)
def diverse_branch_block(net: Net) -> Case:
    """DBB: k×k, 1x1, 1x1 → k×k and 1x1 → average, each with its norm, the padding in front of the 1x1."""
    x = image(net, 8)
    square, point = net.bn(net.conv(x, 8, pads=PADS, bias=False)), net.bn(net.conv(x, 8, (1, 1), bias=False))
    deep = net.conv(x, 8, (1, 1), bias=False, pads=PADS)
    deep = net.bn(net.conv(deep, 8, bias=False))
    mean = net.conv(x, 8, (1, 1), bias=False, pads=PADS)
    mean = net.bn(net.op("AveragePool", mean, kernel_shape=[3, 3]))
    return net.model(relu(net, net.op("Sum", square, point, deep, mean))), 9 * 64 * 72


@saving(17)
def adapter_of_low_rank(net: Net) -> Case:
    """LoRA on a linear layer over tokens: W x + b + s·B A x."""
    x = net.input(["N", 10, 16])
    update = net.affine("Mul", net.matmul(net.matmul(x, 16, 2), 2, 16), np.array(2.0))
    layer = net.op("Add", net.const(net.normal(16)), net.matmul(x, 16, 16))
    return net.model(net.op("Add", layer, update)), 10 * 256


@saving(11)
def acnet_with_strides(net: Net) -> Case:
    x = image(net, 6)
    kernels = (((3, 3), [1, 1, 1, 1]), ((1, 3), [0, 1, 0, 1]), ((3, 1), [1, 0, 1, 0]))
    branches = [net.bn(net.conv(x, 6, k, pads=p, strides=[2, 2])) for k, p in kernels]
    return net.model(net.op("Sum", *branches)), 9 * 36 * 20


@saving()
def pool_behind_a_bias_and_bn(net: Net) -> Case:
    y = net.bn(net.conv(image(net, 8), 8, (1, 1)))
    pool = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}
    return net.model(net.op("AveragePool", y, **pool)), 64 * 4 * 4


@saving()
def border_sums_of_a_global_mean(net: Net) -> Case:
    return net.model(net.op("GlobalAveragePool", net.conv(image(net, 6), 8, pads=PADS))), 9 * 48


@saving()
def nearest_then_3x3(net: Net) -> Case:
    return net.model(net.conv(named(net, nearest(net, image(net), 2), 4), 6, pads=PADS)), 16 * 24 * 72


@saving()
def pointwise_then_smaller(net: Net) -> Case:
    x = net.input(["N", 4, 8, 8])
    return net.model(nearest(net, net.conv(x, 6, (1, 1)), 0.5)), 24 * 16


@saving()
def residual_read_at_strides(net: Net) -> Case:
    """Two readers of strides 2 and 4; the 3x3 and the residual are needed at stride 2 alone."""
    x = image(net)
    y = named(net, relu(net, net.op("Add", net.conv(x, 4, pads=PADS), x)), 4)
    first, second = (net.conv(y, 5, (1, 1), strides=[s, s]) for s in (2, 4))
    return net.model(first, second), (144 * 20 + 20 * 20 + 20 * 6)


@saving()
def zero_taps_of_an_asymmetric_kernel(net: Net) -> Case:
    weight = np.zeros((6, 4, 3, 3))
    weight[:, :, 0, 2] = net.weights(6, 4)
    return net.model(net.conv(image(net), 6, weight=weight, pads=PADS)), 24 * 72


@saving()
def constant_channels_at_a_border(net: Net) -> Case:
    """Filters of zeros leave their bias, which the padding of the next convolution cuts off."""
    weight = net.weights(12, 4, 3, 3)
    weight[:4] = 0
    bias = net.const(np.abs(net.normal(12)) + 0.1)
    y = net.conv(net.input(["N", 4, 9, 8]), 12, weight=weight, bias=bias, pads=PADS)
    return net.model(net.conv(named(net, relu(net, y), 12), 5, pads=PADS)), 72 * 9 * (4 * 8 + 8 * 5)


@saving()
def constant_channels_of_a_norm(net: Net) -> Case:
    y = net.conv(image(net), 12, pads=PADS, bias=False)
    gamma = np.where(np.arange(12) < 5, 0, net.random.uniform(0.5, 1.5, 12))
    rest = (net.normal(12), net.normal(12) * 0.1, np.ones(12))
    y = net.op("BatchNormalization", y, net.const(gamma), *(net.const(each) for each in rest))
    return net.model(net.conv(named(net, relu(net, y), 12), 5, (1, 1))), 72 * (9 * 4 * 7 + 7 * 5)


@saving()
def residual_of_zeros(net: Net) -> Case:
    """The last γ of the branch is 0, and nothing of the branch is left."""
    x = image(net, 8)
    y = net.conv(named(net, relu(net, net.conv(x, 8, pads=PADS)), 8), 8, pads=PADS, bias=False)
    rest = (np.zeros(8), np.zeros(8), net.normal(8), np.ones(8))
    y = net.op("BatchNormalization", y, *(net.const(each) for each in rest))
    return net.model(relu(net, net.op("Add", y, x))), 0


@saving()
def dead_branch_of_a_concat(net: Net) -> Case:
    x = image(net)
    parts = [relu(net, net.conv(x, 6, pads=PADS)), relu(net, net.conv(x, 6, (5, 5), pads=[2] * 4))]
    weight = net.weights(3, 12, 1, 1)
    weight[:, 6:] = 0
    y = named(net, net.op("Concat", *parts, axis=1), 12)
    return net.model(net.conv(y, 3, weight=weight)), 72 * (9 * 24 + 18)


@saving()
def permuted_blocks_1d(net: Net) -> Case:
    weight = np.zeros((12, 8, 3))
    rows, columns = net.random.permutation(12), net.random.permutation(8)
    for g in range(4):
        block = np.ix_(rows[3 * g : 3 * g + 3], columns[2 * g : 2 * g + 2])
        weight[block] = net.weights(3, 2, 3)
    return net.model(net.conv(net.input(["N", 8, 9]), 12, weight=weight, pads=[1, 1])), 12 * 2 * 3 * 9


@saving()
def low_rank_transposed(net: Net) -> Case:
    weight = np.swapaxes(low_rank(net, 24, 32, (3, 3), rank_in=4), 0, 1).copy()
    y = net.conv(image(net, 32), 24, weight=weight, transpose=True, strides=[2, 2], pads=PADS)
    return net.model(y), 72 * (128 + 96 * 9)


@saving()
def nhwc_mlp(net: Net) -> Case:
    y = net.op("Transpose", image(net), perm=[0, 2, 3, 1])
    for inside, out in ((4, 16), (16, 4)):
        y = net.op("Add", net.matmul(y, inside, out), net.const(net.normal(out)))
    return net.model(net.op("Transpose", y, perm=[0, 3, 1, 2])), 16 * 72


@saving(17, dtype=np.float64)
def fp64_layers(net: Net) -> Case:
    y = net.input(["N", 8])
    for out in (40, 8, 60, 3):
        y = net.gemm(y, out)
    return net.model(y), 24


@saving(17, dtype=np.float16)
def fp16_layers(net: Net) -> Case:
    return net.model(net.conv(net.conv(image(net, 8), 32, (1, 1)), 8, (1, 1))), 64 * 72


@saving(8, ir_version=3)
def ir_version_3(net: Net) -> Case:
    """Initializers among the inputs, as the format asks there, are constants in every round."""
    y = net.bn(net.conv(net.input(["N", 4, 9, 8]), 12, (1, 1)))
    return net.model(net.conv(y, 4, pads=PADS)), 9 * 16 * 72


@saving(7)
def identity_in_training_pairs(net: Net) -> Case:
    """Dropout in inference mode and Identity in between, at the oldest opset."""
    y = net.op("Identity", net.op("Dropout", net.conv(image(net), 30, (1, 1)), ratio=0.3))
    return net.model(net.conv(named(net, y, 30), 5, (1, 1))), 20 * 72


# ---------------------------------------------------------------- traps


@trap()
def dropout_in_training(net: Net) -> Case:
    y = net.conv(image(net), 30, (1, 1))
    y = net.op("Dropout", y, net.const(np.float32(0)), net.const(np.array(True)))
    return net.model(net.conv(named(net, y, 30), 5, (1, 1))), None


@trap()
def middle_is_an_output(net: Net) -> Case:
    y = net.conv(image(net), 6, (1, 1))
    return net.model(y, net.conv(y, 4, (1, 1))), None


@trap()
def padded_then_padded(net: Net) -> Case:
    return net.model(net.conv(net.conv(image(net), 40, pads=PADS), 4, pads=PADS)), None


@trap()
def sum_that_broadcasts(net: Net) -> Case:
    """The same weights on two maps whose sizes need not agree."""
    x, y = net.input([1, 4, 8, 8]), net.input([1, 4, "H", "W"], "y")
    weight = net.const(net.weights(4, 4, 3, 3))
    branches = [net.conv(each, 4, weight=weight, pads=PADS) for each in (x, y)]
    return net.model(net.op("Add", *branches)), None


@trap(17)
def constants_that_widen(net: Net) -> Case:
    wide = net.op("Mul", net.conv(net.input([1, 4, 1, 1]), 4, (1, 1)), net.const(net.normal(3, 4, 5, 1)))
    width = net.op("Add", net.conv(net.input([1, 8, 8, 8], "y"), 8), net.const(net.normal(6)))
    return net.model(wide, width), None


@trap()
def random_operators(net: Net) -> Case:
    x = net.input([1, 4, 8, 8])
    noise = [net.op("RandomNormalLike", x) for _ in range(2)]
    largest = net.op("ReduceMax", net.op("Abs", net.op("Sub", *noise)))
    differ = net.op("Cast", net.op("Greater", largest, net.const(np.float32(1e-3))), to=TensorProto.FLOAT)
    return net.model(differ, net.conv(x, 4)), None


@trap()
def linear_resize_of_a_relu(net: Net) -> Case:
    scales = net.const(np.array([1, 1, 2, 2], np.float32))
    y = relu(net, net.op("Resize", image(net), "", scales, mode="linear"))
    return net.model(net.conv(named(net, y, 4), 6, (1, 1))), None


@trap()
def padded_pointwise_behind_a_resize(net: Net) -> Case:
    return net.model(net.conv(named(net, nearest(net, image(net), 2), 4), 6, (1, 1), pads=PADS)), None


@trap()
def readers_of_two_strides(net: Net) -> Case:
    y = relu(net, net.conv(image(net), 6, pads=PADS))
    return net.model(net.conv(y, 5, (1, 1), strides=[2, 2]), net.conv(y, 5, (1, 1))), None


@trap()
def mean_over_channels_too(net: Net) -> Case:
    return net.model(net.op("ReduceMean", net.conv(image(net), 8, (1, 1)), axes=[1, 2, 3])), None


@trap()
def concat_over_the_batch(net: Net) -> Case:
    parts = [net.conv(net.input([1, 4, 8, 8], name), 20, (1, 1)) for name in ("x", "y")]
    return net.model(net.conv(named(net, net.op("Concat", *parts, axis=0), 20), 5, (1, 1))), None


@trap()
def quantised(net: Net) -> Case:
    scale, zero = net.const(np.float32(0.05)), net.const(np.array(0, np.int8))
    integers = net.const(net.random.integers(-90, 90, (12, 4, 1, 1)).astype(np.int8))
    weight = net.op("DequantizeLinear", integers, scale, zero)
    return net.model(net.conv(net.conv(net.input([1, 4, 8, 8]), 12, (1, 1), weight=weight), 4, (1, 1))), None


@trap()
def overridable_weights(net: Net) -> Case:
    weight = net.const(net.weights(12, 4, 1, 1), overridable=True)
    return net.model(net.conv(net.bn(net.conv(image(net), 12, (1, 1), weight=weight)), 4, (1, 1))), None


@trap()
def custom_operator(net: Net) -> Case:
    y = net.op("Gelu", net.conv(image(net), 12, (1, 1)), domain="com.microsoft")
    return net.model(net.conv(named(net, y, 12), 4, (1, 1))), None


@trap()
def body_that_captures(net: Net) -> Case:
    """Channels that the outer graph ignores are read in a branch; weights are shared with the other one."""
    x = net.input([1, 4, 8, 8])
    shared = net.const(net.weights(12, 4, 1, 1), "shared")
    y = relu(net, net.bn(net.conv(x, 12, weight=shared)))
    weight = net.weights(4, 12, 1, 1)
    weight[:, :6] = 0
    branch = net.choose(
        lambda then: then.op("ReduceMean", y, axes=[1]),
        lambda other: other.op("ReduceMax", other.bn(other.conv(x, 12, weight=shared)), axes=[1]),
    )
    return net.model(branch, net.conv(y, 4, weight=weight)), None


@trap(15)
def statistics_of_the_batch(net: Net) -> Case:
    y = net.bn(net.conv(net.input([2, 4, 8, 8]), 4, (1, 1)), training_mode=1)
    net.nodes[-1].output.extend(["mean", "variance"])
    return net.model(y), None


# ---------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", SAVINGS)
def test_saving_is_reached(name: str) -> None:
    model, left = SAVINGS[name]()
    found = check(model, sizes=SIZES)
    assert left is not None and found.macs_after <= left
    assert not [note for note in found.report.notes if "rounds" in note]


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("aim", ["macs", "time"])
def test_trap_stays_equal(name: str, aim: str) -> None:
    model, _ = TRAPS[name]()
    feeds = [make_feeds(model, {**SIZES, **sizes}) for sizes in OTHER_SIZES.get(name, (SIZES, {"N": 3}))]
    found = check(model, sizes=OTHER_SIZES.get(name, [SIZES])[0], feeds=feeds, aim=aim)
    reasons = [item.reason for item in (*found.report.rejected, *found.report.declined)]
    assert not [reason for reason in reasons if "failed verification" in reason]


@pytest.mark.parametrize("name", SAVINGS)
def test_order_of_the_registry_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = SAVINGS[name]()
    usual = macs_left(model)
    for seed in SHUFFLES:
        shuffle_registry(seed, monkeypatch)
        assert macs_left(model) == usual


@pytest.mark.skipif(not (SHARED / "cases" / "cases.py").exists(), reason="the public cases are not at hand")
@pytest.mark.parametrize("part", range(4))
def test_public_cases_in_any_order(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("public_cases", (SHARED / "cases" / "cases.py"))
    assert spec is not None and spec.loader is not None
    cases: Any = importlib.util.module_from_spec(spec)
    sys.modules["public_cases"] = cases
    spec.loader.exec_module(cases)
    names = [name for name, case in cases.CASES.items() if case.kind == "macs"][part::8]
    models = [cases.build(name, c=16, hw=10)[0] for name in names]
    usual = [macs_left(model) for model in models]
    shuffle_registry(part, monkeypatch)
    assert dict(zip(names, map(macs_left, models), strict=True)) == dict(zip(names, usual, strict=True))


def macs_left(model: onnx.ModelProto) -> int | None:
    return graphopt.optimize(model, aim="macs").report.after.macs


def shuffle_registry(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = list(registry.BUILTIN)
    random.Random(seed).shuffle(shuffled)
    monkeypatch.setattr(registry, "BUILTIN", tuple(shuffled))
