"""The kernel algebra against a naive convolution, for 0 to 3 spatial axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels import algebra as K

Float64 = npt.NDArray[np.float64]


def convolve(
    x: Float64,
    weight: Float64,
    *,
    group: int = 1,
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    pads: Sequence[int] = (),
) -> Float64:
    """ONNX Conv of one image ``[channels, *size]`` by loops; `pads` is begins then ends."""
    axes = weight.ndim - 2
    stride, dilation = stride or (1,) * axes, dilation or (1,) * axes
    pads = pads or (0,) * (2 * axes)
    x = np.pad(x, [(0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    extent = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sizes = [(n - e) // s + 1 for n, e, s in zip(x.shape[1:], extent, stride, strict=True)]
    out, per_group = weight.shape[:2]
    y = np.zeros((out, *sizes))
    for o in range(out):
        start = o // (out // group) * per_group
        for position in itertools.product(*map(range, sizes)):
            window = tuple(
                slice(q * s, q * s + e, d)
                for q, s, e, d in zip(position, stride, extent, dilation, strict=True)
            )
            y[(o, *position)] = (weight[o] * x[(slice(start, start + per_group), *window)]).sum()
    return y


def transposed_convolve(x: Float64, weight: Float64, group: int, stride: Sequence[int]) -> Float64:
    """ONNX ConvTranspose of one image without padding, by scattering; weight ``[in, out / group, *taps]``."""
    channels, per_group, *taps = weight.shape
    sizes = [(n - 1) * s + k for n, s, k in zip(x.shape[1:], stride, taps, strict=True)]
    y = np.zeros((per_group * group, *sizes))
    for i in range(channels):
        start = i // (channels // group) * per_group
        for position in itertools.product(*map(range, x.shape[1:])):
            window = tuple(slice(q * s, q * s + k) for q, s, k in zip(position, stride, taps, strict=True))
            y[(slice(start, start + per_group), *window)] += x[(i, *position)] * weight[i]
    return y


def draw_tuple(draw: st.DrawFn, axes: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw(st.integers(low, high)) for _ in range(axes))


@st.composite
def chains(draw: st.DrawFn) -> dict:
    """Two convolutions that follow each other, and how they are applied."""
    axes = draw(st.integers(0, 3))
    high = 3 if axes < 3 else 2
    channels = draw(st.sampled_from([1, 2, 4, 6, 12]))
    divisors = [g for g in (1, 2, 3, 4, 6, 12) if channels % g == 0]
    group_first, group_second = draw(st.sampled_from(divisors)), draw(st.sampled_from(divisors))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape_first = (channels, draw(st.integers(1, 2)), *draw_tuple(draw, axes, 1, high))
    shape_second = (
        group_second * draw(st.integers(1, 2)),
        channels // group_second,
        *draw_tuple(draw, axes, 1, high),
    )
    return {
        "axes": axes,
        "first": rng.standard_normal(shape_first),
        "second": rng.standard_normal(shape_second),
        "group_first": group_first,
        "group_second": group_second,
        "stride_first": draw_tuple(draw, axes, 1, high),
        "stride_second": draw_tuple(draw, axes, 1, 2),
        "dilation_first": draw_tuple(draw, axes, 1, high),
        "dilation_second": draw_tuple(draw, axes, 1, high),
        "pads": draw_tuple(draw, 2 * axes, 0, 2),
        "rng": rng,
    }


@settings(deadline=None, max_examples=150)
@given(chains())
def test_compose_equals_one_after_the_other(chain):
    c = chain
    kernel, group, dilation = K.compose(
        c["first"],
        c["second"],
        group_first=c["group_first"],
        group_second=c["group_second"],
        stride_first=c["stride_first"],
        dilation_first=c["dilation_first"],
        dilation_second=c["dilation_second"],
    )
    assert group == np.gcd(c["group_first"], c["group_second"])
    assert (group, kernel.shape[2:], dilation) == K.composed_shape(
        c["first"].shape[2:],
        c["second"].shape[2:],
        groups=(c["group_first"], c["group_second"]),
        stride_first=c["stride_first"],
        dilation_first=c["dilation_first"],
        dilation_second=c["dilation_second"],
    )
    assert kernel.shape[:2] == (len(c["second"]), c["first"].shape[1] * c["group_first"] // group)
    bias_first = c["rng"].standard_normal(c["first"].shape[0])
    bias_second = c["rng"].standard_normal(c["second"].shape[0])
    reach = [(k - 1) * d for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    padded = [a + b for a, b in zip(c["pads"][: c["axes"]], c["pads"][c["axes"] :], strict=True)]
    size = [max(1, r + 1 + more - p) for r, more, p in zip(reach, (3, 0, 1), padded, strict=False)]
    x = c["rng"].standard_normal((c["first"].shape[1] * c["group_first"], *size))

    def column(bias):
        return bias.reshape(-1, *(1,) * c["axes"])

    middle = convolve(
        x,
        c["first"],
        group=c["group_first"],
        stride=c["stride_first"],
        dilation=c["dilation_first"],
        pads=c["pads"],
    ) + column(bias_first)
    expected = convolve(
        middle,
        c["second"],
        group=c["group_second"],
        stride=c["stride_second"],
        dilation=c["dilation_second"],
    ) + column(bias_second)
    stride = tuple(a * b for a, b in zip(c["stride_first"], c["stride_second"], strict=True))
    bias = K.compose_bias(bias_first, c["second"], bias_second, c["group_second"])
    assert bias is not None
    actual = convolve(x, kernel, group=group, stride=stride, dilation=dilation, pads=c["pads"]) + column(bias)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("taps_first", "taps_second", "stride", "dilation_first", "dilation_second", "taps", "dilation"),
    [
        ((1,), (3,), 2, 5, 3, (3,), (6,)),  # a pointwise first makes no step
        ((3,), (1,), 2, 5, 3, (3,), (5,)),  # nor does a pointwise second
        ((1,), (1,), 2, 5, 3, (1,), (1,)),
        ((3,), (3,), 1, 2, 4, (7,), (2,)),  # steps 2 and 4
        ((3,), (3,), 3, 1, 1, (9,), (1,)),  # steps 1 and 3: k₁ + s₁(k₂ − 1)
    ],
)
def test_compose_keeps_the_largest_dilation(
    taps_first, taps_second, stride, dilation_first, dilation_second, taps, dilation
):
    composed = K.compose(
        np.ones((1, 1, *taps_first)),
        np.ones((1, 1, *taps_second)),
        stride_first=[stride],
        dilation_first=[dilation_first],
        dilation_second=[dilation_second],
    )
    assert composed.kernel.shape[2:] == taps
    assert composed.dilation == dilation


def test_compose_of_1x3_and_3x1_is_3x3():
    row, column = np.array([1.0, 2, 3]), np.array([5.0, 7, 11])
    composed = K.compose(row.reshape(1, 1, 1, 3), column.reshape(1, 1, 3, 1))
    np.testing.assert_array_equal(composed.kernel[0, 0], np.outer(column, row))


def test_compose_depthwise_then_pointwise_is_dense():
    rng = np.random.default_rng(0)
    depthwise, pointwise = rng.standard_normal((4, 1, 3, 3)), rng.standard_normal((5, 4, 1, 1))
    composed = K.compose(depthwise, pointwise, group_first=4)
    assert composed.group == 1
    np.testing.assert_allclose(composed.kernel, pointwise * depthwise[:, 0])


def test_compose_returns_float64_from_half_precision():
    composed = K.compose(np.ones((2, 3), np.float16), np.ones((4, 2), np.float16))
    assert composed.kernel.dtype == np.float64
    assert composed.dilation == ()


def test_compose_bias_without_biases():
    second = np.ones((3, 2, 1, 1))
    bias = np.arange(3, dtype=np.float32)
    assert K.compose_bias(None, second, None) is None
    np.testing.assert_array_equal(K.compose_bias(None, second, bias), bias)
    np.testing.assert_array_equal(K.compose_bias(np.array([1.0, 2.0]), second, None), [3, 3, 3])


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Float64, int, np.random.Generator]:
    axes = draw(st.integers(0, 3))
    group = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (
        group * draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        *draw_tuple(draw, axes, 1, 3 if axes < 3 else 2),
    )
    return rng.standard_normal(shape), group, rng


@settings(deadline=None, max_examples=60)
@given(kernels())
def test_scales_commute_with_the_convolution(case):
    weight, group, rng = case
    x = rng.standard_normal((weight.shape[1] * group, *weight.shape[2:]))
    before, after = rng.standard_normal(len(x)), rng.standard_normal(len(weight))
    scaled = K.scale_outputs(K.scale_inputs(weight, before, group), after)
    column = (slice(None), *(None,) * (weight.ndim - 2))
    expected = after[column] * convolve(before[column] * x, weight, group=group)
    np.testing.assert_allclose(convolve(x, scaled, group=group), expected, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(kernels(), st.data())
def test_regroup_keeps_the_function(case, data):
    weight, group, rng = case
    new_group = data.draw(st.sampled_from([g for g in range(1, group + 1) if group % g == 0]))
    x = rng.standard_normal((weight.shape[1] * group, *weight.shape[2:]))
    regrouped = K.regroup(weight, group, new_group)
    assert regrouped.shape[:2] == (len(weight), len(x) // new_group)
    expected = convolve(x, weight, group=group)
    np.testing.assert_allclose(convolve(x, regrouped, group=new_group), expected, rtol=1e-10, atol=1e-12)
    assert K.to_dense(weight, group).shape[:2] == (len(weight), len(x))


@settings(deadline=None, max_examples=60)
@given(kernels())
def test_transpose_layout_turns_convtranspose_into_conv(case):
    weight, group, rng = case  # read as [in, out / group, *taps]
    axes = weight.ndim - 2
    swapped = K.transpose_layout(weight, group)
    np.testing.assert_array_equal(K.transpose_layout(swapped, group), weight)
    x = rng.standard_normal((len(weight), *(2,) * axes))
    reversed_taps = swapped[(slice(None), slice(None), *(slice(None, None, -1),) * axes)]
    actual = convolve(x, reversed_taps, group=group, pads=tuple(k - 1 for k in weight.shape[2:]) * 2)
    expected = transposed_convolve(x, weight, group, (1,) * axes)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: K.compose(np.ones((3, 2)), np.ones((4, 2))), "3 channels come out, 2 go in"),
        (lambda: K.compose(np.ones((3, 2, 1)), np.ones((4, 3))), "do not follow"),
        (lambda: K.compose(np.ones((3, 2)), np.ones((4, 3)), group_first=2), "cannot have 2 groups"),
        (lambda: K.compose(np.ones((3, 2)), np.ones((4, 3)), stride_first=[1]), "stride_first"),
        (lambda: K.composed_shape((3,), (3, 3)), "1 and 2 spatial axes"),
        (lambda: K.compose_bias(np.ones(2), np.ones((4, 3)), None), "bias_first"),
        (lambda: K.compose_bias(None, np.ones((4, 3)), np.ones(3)), "bias_second"),
        (lambda: K.scale_outputs(np.ones((4, 3)), np.ones(3)), "4 outputs"),
        (lambda: K.scale_inputs(np.ones((4, 3)), np.ones(3), 2), "6 inputs"),
        (lambda: K.regroup(np.ones((4, 1)), 4, 3), "joined into 3"),
    ],
)
def test_mismatches_are_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
