"""lossless_separable, lossless_depthwise, and lossless_bottleneck beyond dense convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import graphopt
from graphopt.numerics.lowrank import exact_factors
from tests.builders import Array, Net, alone, check, low_rank, make_feeds, run

EPS = float(np.finfo(np.float32).eps)


def separable(net: Net, out: int, inside: int, taps: tuple[int, int], rank: int) -> Array:
    rows, columns = net.weights(out, rank, taps[1]), net.weights(rank, inside, taps[0])
    return np.einsum("orx,riy->oiyx", rows, columns)


def decoupled(
    net: Net, out: int, inside: int, taps: tuple[int, ...], multiplier: int, *, last: bool
) -> Array:
    if last:
        mix, filters = net.weights(out, inside, multiplier), net.weights(inside, multiplier, *taps)
        return np.einsum("oim,im...->oi...", mix, filters)
    mix, filters = net.weights(out, inside, multiplier), net.weights(out, multiplier, *taps)
    return np.einsum("oim,om...->oi...", mix, filters)


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride, pads and dilation": {"strides": [2, 1], "pads": [1, 0, 2, 3], "dilations": [1, 2]},
    "transposed": {"transpose": True, "strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
    "no bias": {"bias": False},
    "same": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
}


def convolution(net: Net, weight: Array, form: str, group: int = 1, **changes: Any) -> str:
    options = {**FORMS[form], **changes}
    x = net.input([2, weight.shape[1] * group, 9, 10])
    if options.get("transpose"):
        o, i = weight.shape[0] // group, weight.shape[1]
        weight = (
            weight.reshape(group, o, i, *weight.shape[2:])
            .swapaxes(1, 2)
            .reshape(group * i, o, *weight.shape[2:])
        )
        return net.conv(x, o * group, weight.shape[2:], weight=weight, group=group, **options)
    return net.conv(x, len(weight), weight.shape[2:], weight=weight, group=group, **options)


# ---------------------------------------------------------------- separable


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 2])
def test_separable(form: str, group: int) -> None:
    net = Net()
    weight = np.concatenate([separable(net, 8, 9, (3, 4), 3) for _ in range(group)])
    result = alone("lossless_separable", net, convolution(net, weight, form, group))
    assert sum(result.ops.values()) == 2
    assert result.report.applied[0].candidate.choice["rank"] == 3


def test_a_blur_of_each_channel() -> None:
    net = Net()
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    y = net.conv(
        net.input([1, 6, 9, 9]), 6, (5, 5), weight=np.tile(kernel, (6, 1, 1, 1)), group=6, pads=[2] * 4
    )
    alone("lossless_separable", net, y, macs_after=2 * 81 * 6 * 5)


def test_three_axes_split_twice() -> None:
    net = Net()
    weight = np.einsum("orz,rsy,six->oizyx", net.weights(8, 2, 3), net.weights(2, 2, 3), net.weights(2, 8, 3))
    result = alone(
        "lossless_separable", net, net.conv(net.input([1, 8, 6, 6, 6]), 8, (3, 3, 3), weight=weight), number=2
    )
    assert result.ops == {"Conv": 3}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_cheapest_factors_are_taken(dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    y = net.conv(net.input([1, 24, 8, 8]), 24, weight=separable(net, 24, 24, (3, 3), 4), pads=[1] * 4)
    assert check(net.model(y), macs_after=64 * 4 * 3 * 48).applied == {"lossless_separable": 1}


# ---------------------------------------------------------------- depthwise


@pytest.mark.parametrize("form", [form for form in FORMS if form != "transposed"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_depthwise_and_pointwise(form: str, last: bool, group: int) -> None:
    net = Net()
    weight = np.concatenate([decoupled(net, 12, 12, (3, 3), 1, last=last) for _ in range(group)])
    changes = {} if last else {"strides": [1, 1]}  # the pointwise in front of a stride does not pay
    result = alone("lossless_depthwise", net, convolution(net, weight, form, group, **changes))
    choice = result.report.applied[0].candidate.choice
    assert choice == {"pointwise": "last" if last else "first", "multiplier": 1}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_several_kernels_a_channel(axes: int) -> None:
    net = Net()
    weight = decoupled(net, 32, 8, (3,) * axes, 2, last=True)
    y = net.conv(net.input([1, 8, *(5,) * axes]), 32, (3,) * axes, weight=weight)
    assert alone("lossless_depthwise", net, y).report.applied[0].candidate.choice["multiplier"] == 2


def test_a_transposed_one() -> None:
    net = Net()
    weight = decoupled(net, 3, 24, (5, 5), 1, last=False)
    alone("lossless_depthwise", net, convolution(net, weight, "transposed"))


# ---------------------------------------------------------------- bottleneck


@pytest.mark.parametrize("kind", ["gemm", "matmul"])
@pytest.mark.parametrize("opset", [7, 13])
def test_fully_connected(kind: str, opset: int) -> None:
    net = Net(opset)
    weight = low_rank(net, 40, 32, (), rank_in=4)
    if kind == "gemm":
        y = net.op(
            "Gemm", net.input(["N", 32]), net.const(weight.T), net.const(net.normal(40)), alpha=0.5, beta=2.0
        )
    else:
        y = net.op("MatMul", net.input(["N", 3, 32]), net.const(weight.T))
    alone("lossless_bottleneck", net, y, macs_after=(3 if kind == "matmul" else 1) * 4 * 72)


@pytest.mark.parametrize("cuts", [{"rank_in": 2}, {"rank_out": 3}, {"rank_in": 3, "rank_out": 2}])
@pytest.mark.parametrize("form", ["plain", "stride, pads and dilation", "transposed"])
def test_groups(cuts: dict[str, int], form: str) -> None:
    net = Net()
    weight = np.concatenate([low_rank(net, 12, 10, (3, 3), **cuts) for _ in range(3)])
    result = alone("lossless_bottleneck", net, convolution(net, weight, form, 3))
    assert {k: v for k, v in result.report.applied[0].candidate.choice.items() if v} == cuts


def test_full_rank_stays() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 8, 8]), 16, group=2)
    y = net.op("Flatten", net.conv(net.op("Relu", y), 16, (6, 6)), channels=16)
    check(net.model(net.gemm(net.op("Relu", y), 12)), applied={"conv_to_gemm": 1, "remove_identity": 1})


# ---------------------------------------------------------------- the algebra


@pytest.mark.parametrize("first", [(0,), (1,), (0, 2)])
def test_separate_gives_the_kernel_back(first: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(1).standard_normal((3, 4, 2, 3, 2))
    rank = min(exact_factors.separable_matrix(kernel, first).shape)
    a, b = exact_factors.separate(kernel, first, rank)
    np.testing.assert_allclose(_joined(a, b), kernel, atol=1e-12)


def _joined(a: Array, b: Array) -> Array:
    return np.asarray(sum(b[:, r, None] * a[None, r] for r in range(a.shape[0])))


def test_large_matrices_are_searched_quickly() -> None:
    random = np.random.default_rng(0)
    full = random.standard_normal((1500, 2500), dtype=np.float32)
    assert exact_factors.find_rank(full, EPS, 900) is None
    low = random.standard_normal((1500, 20), dtype=np.float32) @ random.standard_normal(
        (20, 2500), dtype=np.float32
    )
    assert exact_factors.find_rank(low, EPS, 900) == 20
    left, right = exact_factors.thin_factors(low, EPS, 20)
    assert np.abs(left @ right - low).max() < 1e-5 * np.abs(low).max()
    assert exact_factors.find_rank(low + 1e-3 * full, EPS, 900) is None


# ---------------------------------------------------------------- channels of several scales


LOSSLESS = ("lossless_bottleneck", "lossless_separable", "lossless_depthwise")


@pytest.mark.parametrize("form", ["plain", "transposed"])
@pytest.mark.parametrize(("dtype", "factor"), [(np.float16, 1000), (np.float16, 4000), (np.float32, 1e8)])
def test_channels_beside_a_large_one_are_no_rounding(dtype: npt.DTypeLike, factor: float, form: str) -> None:
    net = Net(dtype=dtype)
    weight = net.weights(16, 8, 3, 3)
    weight[3] *= factor
    y = convolution(net, weight, form, bias=False)
    check(net.model(y), only=LOSSLESS, applied={}, compare=False)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_inputs_beside_those_of_large_weights_are_no_rounding(dtype: npt.DTypeLike) -> None:
    net = Net(dtype=dtype)
    weight = net.weights(16, 8, 3, 3)
    weight[:, 3] *= 1000 if dtype is np.float16 else 1e8
    check(net.model(convolution(net, weight, "plain")), only=LOSSLESS, applied={}, compare=False)


@pytest.mark.parametrize("form", ["plain", "transposed"])
@pytest.mark.parametrize("rewrite", LOSSLESS)
def test_factors_of_channels_of_several_scales_keep_each(rewrite: str, form: str) -> None:
    net = Net()
    weight = {
        "lossless_bottleneck": lambda: low_rank(net, 16, 12, (3, 3), rank_in=3, rank_out=3),
        "lossless_separable": lambda: separable(net, 16, 12, (3, 3), 3),
        "lossless_depthwise": lambda: decoupled(net, 16, 12, (3, 3), 1, last=True),
    }[rewrite]()
    scales = 10.0 ** np.random.default_rng(0).uniform(-4, 4, (16, 1, 1, 1))
    model = net.model(convolution(net, (scales * weight).astype(np.float32), form, bias=False))
    result = check(model, only=[rewrite], applied={rewrite: 1}, compare=False)
    feeds = make_feeds(model)
    one, other = (run(each, feeds)[0].astype(np.float64) for each in (model, result.after))
    axes = (0, 2, 3)
    assert (np.abs(one - other).max(axes) / np.abs(one).max(axes)).max() < 2e-6


@pytest.mark.parametrize("rewrite", ["lossless_bottleneck", "lossless_separable", "lossless_depthwise"])
def test_a_kernel_is_looked_at_once_a_run(rewrite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many operators share it, and however many rounds others take."""
    looked: list[tuple[int, ...]] = []

    def above(matrix: Array, eps: float, pays: int) -> bool:
        looked.append(matrix.shape)
        return True

    def searched(operators: int, foldable: int) -> int:
        net = Net()
        x, w = net.input([1, 16, 9, 9]), net.const(net.weights(16, 16, 3, 3))
        for _ in range(operators):
            x = net.op("Relu", net.op("Conv", x, w, channels=16, kernel_shape=[3, 3], pads=[1] * 4))
        for _ in range(foldable):
            x = net.op("Mul", net.conv(x, 16, (1, 1)), net.const(np.float32(2.0)))
        looked.clear()
        graphopt.optimize(net.model(x), only=[rewrite, "fold_affine", "collapse"])
        return sum(shape != (16, 16) for shape in looked)

    monkeypatch.setattr(exact_factors, "is_above", above)
    once = searched(1, 0)
    assert 0 < once == searched(3, 0) == searched(3, 2)
