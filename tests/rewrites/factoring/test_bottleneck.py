"""bottleneck: a trained k×k convolution becomes 1x1 → k×k → 1x1 of lower rank, on request."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import graphopt
from graphopt import InputError
from tests.builders import Array, Net, alone, check, low_rank, run

RANKS = {
    "input": {"bottleneck.rank_in": 6},
    "output": {"bottleneck.rank_out": 5},
    "both": {"bottleneck.rank_in": 6, "bottleneck.rank_out": 5},
}
FORMS: dict[str, dict[str, Any]] = {
    "1d": {"shape": [2, 16, 21], "kernel": (5,)},
    "2d": {"shape": [2, 16, 9, 9], "kernel": (3, 3), "pads": [1, 1, 1, 1]},
    "3d": {"shape": [1, 16, 6, 7, 6], "kernel": (3, 2, 3)},
    "stride": {"shape": [1, 16, 12, 11], "kernel": (5, 5), "strides": [2, 1], "pads": [2, 2, 2, 2]},
    "dilation": {"shape": [1, 16, 11, 12], "kernel": (3, 3), "dilations": [2, 3]},
    "asymmetric pads": {"shape": [1, 16, 9, 9], "kernel": (3, 3), "pads": [0, 2, 1, 1]},
    "same": {"shape": [1, 16, 12, 11], "kernel": (5, 5), "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "no bias": {"shape": [1, 16, 9, 9], "kernel": (3, 3), "bias": False},
    "transpose": {"shape": [1, 16, 6, 6], "kernel": (3, 3), "transpose": True, "strides": [2, 2]},
}
cut = partial(alone, "bottleneck", again=False)
left_alone = partial(alone, number=0)


def of_rank(form: str, *, dtype: npt.DTypeLike = np.float32) -> onnx.ModelProto:
    """A convolution 16→16 whose ranks are those of `RANKS`, so that the cut is exact."""
    options = dict(FORMS[form])
    shape, kernel = options.pop("shape"), options.pop("kernel")
    net = Net(dtype=dtype)
    weight = low_rank(net, 16, 16, kernel, rank_in=6, rank_out=5)
    if options.get("transpose"):
        weight = np.ascontiguousarray(weight.swapaxes(0, 1))
    return net.model(net.conv(net.input(shape), 16, kernel, weight=weight, **options))


# ---------------------------------------------------------------- fixed ranks


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("form", FORMS)
def test_fixed_ranks_at_the_rank_of_the_weights_are_exact(form: str, ranks: str) -> None:
    result = cut(of_rank(form), options=RANKS[ranks])
    (applied,) = result.report.applied
    assert {f"bottleneck.{k}": v for k, v in applied.candidate.choice.items() if v} == RANKS[ranks]
    assert applied.exactness is graphopt.Exactness.APPROXIMATE
    assert applied.candidate.error < 1e-9
    assert result.report.unmeasured and applied.error_measured is None
    assert result.ops["Conv"] + result.ops["ConvTranspose"] == 1 + len(RANKS[ranks])


def test_fixed_ranks_in_half_precision() -> None:
    cut(of_rank("2d", dtype=np.float16), options=RANKS["both"])


def test_fixed_ranks_below_the_rank_of_the_weights() -> None:
    net = Net()
    y = net.conv(net.input([2, 16, 9, 9]), 16, pads=[1] * 4)
    options = {"bottleneck.rank_in": 4, "bottleneck.rank_out": 4}
    macs = 2 * 81 * (16 * 4 + 9 * 16 + 4 * 16)
    result = cut(net, y, macs_after=macs, compare=False, options=options)
    (applied,) = result.report.applied
    assert 0.1 < applied.candidate.error < 1.0
    assert result.report.unmeasured


@pytest.mark.parametrize("rank", [15, 16])
def test_fixed_ranks_without_a_saving(rank: int) -> None:
    """Also as many as the channels."""
    net = Net()
    y = net.conv(net.input([2, 16, 9, 9]), 16)
    because = ("Conv1", "no such ranks save MACs")
    left_alone("bottleneck", net, y, options={"bottleneck.rank_in": rank}, because=because)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("channels", "out", "group", "words"),
    [
        (16, 16, 16, "depthwise"),
        (16, 16, 4, "4→4 channels"),
        (3, 16, 1, "3→16 channels"),
        (16, 7, 1, "16→7 channels"),
    ],
)
def test_refusals(channels: int, out: int, group: int, words: str) -> None:
    net = Net()
    y = net.conv(net.input([1, channels, 9, 9]), out, group=group)
    left_alone("bottleneck", net, y, options=RANKS["input"], because=("Conv1", words))


@pytest.mark.parametrize(
    ("taps", "options"),
    [
        (9, {"separable.rank": 8}),
        (7, {"separable.rank": 8}),
        (7, {"bottleneck.rank_out": 16}),
        (7, {"depthwise_separable.multiplier": 4}),
    ],
)
def test_a_long_kernel_is_split_however_few_its_channels(taps: int, options: dict[str, int]) -> None:
    net = Net()
    y = net.conv(net.input([1, 3, 20, 20]), 32, (taps, taps), pads=[taps // 2] * 4)
    name = next(iter(options)).split(".")[0]
    alone(name, net, y, compare=False, options=options)


def test_a_short_kernel_of_few_channels_is_left_alone() -> None:
    net = Net()
    y = net.conv(net.input([1, 3, 20, 20]), 32, (5, 5), pads=[2] * 4)
    left_alone(
        "separable",
        net,
        y,
        options={"separable.rank": 4},
        because=("Conv1", "3→32 channels are fewer than 8"),
    )


def test_a_patch_whose_covariance_would_fill_the_memory() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 26, 26]), 16, (26, 26))
    left_alone("bottleneck", net, y, options=RANKS["input"], because=("Conv1", "10,816 numbers", "0.9 GB"))


def test_an_inverted_bottleneck_is_not_searched_for_in_very_wide_patches() -> None:
    net = Net()
    y = net.conv(net.input([1, 288, 6, 6]), 16)
    options = {"inverted_bottleneck.rank": 8}
    left_alone(
        "inverted_bottleneck", net, y, options=options, because=("Conv1", "2,592 numbers", "2,560 at most")
    )


@pytest.mark.parametrize(
    "option",
    [
        "bottleneck.rank_in",
        "bottleneck.min_channels",
        "separable.rank",
        "depthwise_separable.multiplier",
        "inverted_bottleneck.rank",
    ],
)
@pytest.mark.parametrize("value", [0, -1, "0"])
def test_options_are_positive(option: str, value: int | str) -> None:
    net = Net()
    proto = net.model(net.conv(net.input([1, 16, 9, 9]), 16))
    with pytest.raises(
        InputError, match=rf"^{option}={value}: expected {option.split('.')[1]} of at least 1$"
    ):
        graphopt.optimize(proto, only=[option.split(".")[0]], options={option: value})


def test_fewer_channels_can_be_allowed() -> None:
    net = Net()
    y = net.conv(net.input([1, 6, 9, 9]), 16, weight=low_rank(net, 16, 6, (3, 3), rank_in=2))
    options = {"bottleneck.rank_in": 2, "bottleneck.min_channels": 4}
    cut(net, y, options=options)


def test_pointwise_and_gemm_are_no_anchors() -> None:
    net = Net()
    y = net.conv(net.input([1, 16, 9, 9]), 16, (1, 1))
    left_alone("bottleneck", net, y, options=RANKS["input"], because=())


def test_overridable_weights() -> None:
    net = Net()
    x = net.input([1, 16, 9, 9])
    y = net.conv(x, 16, weight=net.const(net.weights(16, 16, 3, 3), "default_weight", overridable=True))
    left_alone(
        "bottleneck",
        net,
        y,
        options=RANKS["input"],
        because=("Conv1", "default_weight", "freeze_initializers"),
    )


def test_quantised_region() -> None:
    net = Net()
    y = net.conv(net.quantised(net.input([1, 16, 9, 9])), 16)
    left_alone("bottleneck", net, y, options=RANKS["input"], because=("Conv1", "quantised region"))


def test_needs_a_budget_or_ranks() -> None:
    with pytest.raises(InputError, match="needs a budget"):
        graphopt.optimize(of_rank("2d"), only=["bottleneck"])


def test_takes_no_part_without_a_budget() -> None:
    net = Net()
    result = check(net.model(net.conv(net.input([1, 32, 9, 9]), 32)))
    assert "bottleneck" not in result.applied
    assert result.reasons("bottleneck") == []


# ---------------------------------------------------------------- budgets


def network() -> onnx.ModelProto:
    """Two convolutions with a Relu in between; the last operator makes one number a channel."""
    net = Net()
    y = net.op("Relu", net.conv(net.input(["N", 16, 8, 8]), 24, pads=[1] * 4, name="first"))
    y = net.conv(y, 16, (5, 5), pads=[2] * 4, name="second")
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", y)))


def samples(number: int, directions: int = 16) -> Array:
    """Inputs whose 16 channels span so many directions at every pixel."""
    random = np.random.default_rng(5)
    mixing = np.random.default_rng(6).standard_normal((16, directions))
    latent = random.standard_normal((number, directions, 8, 8))
    return np.einsum("cd,ndhw->nchw", mixing, latent).astype(np.float32)


def test_a_budget_without_inputs_is_honoured_and_unmeasured() -> None:
    result = cut(network(), number=2, budget={"macs": 0.5}, compare=False)
    assert result.macs_after <= 0.5 * result.macs_before
    assert result.report.unmeasured and result.report.quality is None
    assert all(item.error_measured is None for item in result.report.applied)


def test_a_budget_with_inputs_is_measured_on_held_out_ones() -> None:
    result = cut(network(), number=2, budget={"macs": 0.5}, calibration=samples(64), compare=False)
    assert result.macs_after <= 0.5 * result.macs_before
    report = result.report
    assert not report.unmeasured and report.quality is not None
    assert report.quality.samples == 16
    assert report.quality.sqnr is not None and report.quality.sqnr > 0.0
    for item in report.applied:
        assert item.error_measured is not None
        assert 0.0 < item.error_measured < 1.0
        assert item.error_measured == pytest.approx(item.candidate.error, rel=0.5)


def test_calibration_finds_the_directions_that_the_inputs_use() -> None:
    """The weights have full rank, the inputs span 5 of 16 channels: nothing is lost on such inputs."""
    net = Net()
    model = net.model(net.conv(net.input(["N", 16, 8, 8]), 16, (3, 3), pads=[1] * 4))
    given = samples(64, directions=5)
    options = {"bottleneck.rank_in": 5}
    result = cut(model, options=options, calibration=given, compare=False)
    (applied,) = result.report.applied
    assert applied.candidate.error < 1e-4  # the prediction adds a ridge, which the measurement has not
    assert applied.error_measured is not None and applied.error_measured < 1e-9
    assert result.report.quality is not None and result.report.quality.sqnr > 90
    (expected,), (found,) = (run(each, {"x": given[:8]}) for each in (model, result.after))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    data_free = cut(model, options=options, compare=False)
    assert data_free.report.applied[0].candidate.error > 0.1


def test_the_bias_takes_up_the_mean_that_is_lost() -> None:
    """A constant offset in a direction that is cut goes into the bias, exactly in the interior."""
    net = Net()
    model = net.model(net.conv(net.input(["N", 16, 8, 8]), 16, (3, 3), bias=False))
    given = samples(64, directions=5) + np.arange(16, dtype=np.float32).reshape(16, 1, 1)
    result = cut(model, options={"bottleneck.rank_in": 5}, calibration=given, compare=False)
    (expected,), (found,) = (run(each, {"x": given[:8]}) for each in (model, result.after))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("key", ["params", "bytes"])
def test_other_cost_keys(key: str) -> None:
    result = cut(network(), applied=None, budget={key: 0.5}, compare=False)
    before, after = result.report.before, result.report.after
    if key == "params":
        assert after.params <= 0.5 * before.params
    else:
        assert result.after.ByteSize() <= 0.5 * result.before.ByteSize()


def test_a_budget_that_exact_rewrites_reach_needs_no_bottleneck() -> None:
    net = Net()
    y = net.conv(net.conv(net.input([1, 16, 8, 8]), 64, (1, 1)), 16, (1, 1))
    only = ["collapse", "bottleneck"]
    result = check(net.model(y), applied={"collapse": 1}, budget={"macs": 0.5}, only=only, again=False)
    assert not result.report.unmeasured
