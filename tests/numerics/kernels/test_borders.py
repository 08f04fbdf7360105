"""borders: a constant shift in front of zero padding, zone by zone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels import borders
from tests.numerics.kernels.test_algebra import convolve, transposed_convolve


@st.composite
def convolutions(draw: st.DrawFn) -> dict:
    """A small convolution with any pads, on an input of any size that it fits."""
    axes = draw(st.integers(1, 3))

    def several(low: int, high: int, number: int = axes) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(low, high)] * number))

    group, kernel, dilations = draw(st.integers(1, 3)), several(1, 4), several(1, 3)
    pads = several(0, 4, 2 * axes)
    sizes = tuple(
        max(n, 1 + d * (k - 1) - pads[a] - pads[a + axes])
        for a, (n, k, d) in enumerate(zip(several(1, 9), kernel, dilations, strict=True))
    )
    return {
        "sizes": sizes,
        "kernel": kernel,
        "strides": several(1, 3),
        "pads": pads,
        "dilations": dilations,
        "group": group,
        "channels": (group * draw(st.integers(1, 2)), group * draw(st.integers(1, 2))),
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_a_map_of_zones_is_the_convolution_of_a_padded_constant(case: dict) -> None:
    rng = np.random.default_rng(case["seed"])
    group, (inputs, outputs), sizes = case["group"], case["channels"], case["sizes"]
    weight = rng.standard_normal((outputs, inputs // group, *case["kernel"]))
    shift = rng.standard_normal(inputs)
    reads = borders.conv_reads_per_axis(
        sizes, case["kernel"], case["strides"], case["pads"], case["dilations"]
    )
    found = borders.ZonedMap.uniform_map(shift, sizes).convolved(weight, reads, group).expanded()
    image = np.broadcast_to(shift.reshape(-1, *(1,) * len(sizes)), (inputs, *sizes))
    expected = convolve(
        image, weight, group=group, stride=case["strides"], dilation=case["dilations"], pads=case["pads"]
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(1, 3))
def test_a_map_of_zones_follows_two_convolutions(case: dict, taps: int) -> None:
    rng = np.random.default_rng(case["seed"])
    group, (inputs, outputs), sizes = case["group"], case["channels"], case["sizes"]
    axes = len(sizes)
    weight = rng.standard_normal((outputs, inputs // group, *case["kernel"]))
    second = rng.standard_normal((2, outputs, *(taps,) * axes))
    shift, bias = rng.standard_normal(inputs), rng.standard_normal(outputs)
    reads = borders.conv_reads_per_axis(
        sizes, case["kernel"], case["strides"], case["pads"], case["dilations"]
    )
    zoned = borders.ZonedMap.uniform_map(shift, sizes).convolved(weight, reads, group).shifted(bias)
    pads = (taps - 1, taps, 1)[:axes] * 2
    middle = [len(index) for index in zoned.zones]
    reads = borders.conv_reads_per_axis(middle, (taps,) * axes, (1,) * axes, pads, (1,) * axes)
    found = zoned.convolved(second, reads).expanded()
    image = np.broadcast_to(shift.reshape(-1, *(1,) * axes), (inputs, *sizes))
    image = convolve(
        image, weight, group=group, stride=case["strides"], dilation=case["dilations"], pads=case["pads"]
    )
    expected = convolve(image + bias.reshape(-1, *(1,) * axes), second, pads=pads)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2))
def test_a_map_of_zones_follows_a_transposed_convolution(
    size: int, kernel: int, stride: int, begin: int, end: int
) -> None:
    full = (size - 1) * stride + kernel
    if begin + end >= full:
        return
    rng = np.random.default_rng(size)
    weight, shift = rng.standard_normal((4, 3, kernel)), rng.standard_normal(3)
    reads = borders.transpose_reads(size, kernel, stride=stride, pad_begin=begin, pad_end=end)
    found = borders.ZonedMap.uniform_map(shift, (size,)).convolved(weight, [reads]).expanded()
    image = np.broadcast_to(shift[:, None], (3, size))
    expected = transposed_convolve(image, weight.swapaxes(0, 1), 1, (stride,))[:, begin : full - end]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_3x3_with_pads_has_three_zones_an_axis() -> None:
    reads = [borders.conv_reads(20, 3, pad_begin=1, pad_end=1)]
    zoned = borders.ZonedMap.uniform_map(np.ones(1), (20,)).convolved(np.ones((1, 1, 3)), reads)
    assert np.bincount(zoned.zones[0]).tolist() in ([1, 18, 1], [1, 1, 18], [18, 1, 1])
    assert zoned.expanded().tolist() == [[2, *[3] * 18, 2]]
    assert borders.landing(20, 3).all()


def test_landing_averaged_is_the_average_of_ones() -> None:
    lands = borders.landing(6, 3, stride=2, pad_begin=1, pad_end=1)
    np.testing.assert_allclose(lands.mean(axis=1), [2 / 3, 1, 1])


def test_padding_that_a_stride_never_reads() -> None:
    assert borders.landing(6, 2, stride=2, pad_end=1).all()


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 taps"):
        borders.conv_reads(2, 3)
    with pytest.raises(ValueError, match="all from 1 on"):
        borders.landing(0, 1)


def test_maps_of_other_zones_add_up() -> None:
    rng = np.random.default_rng(3)
    sizes, maps = (6, 5), []
    for taps, pads in (((3, 3), (1, 1)), ((5, 1), (2, 0))):
        ends = zip(sizes, taps, pads, strict=True)
        reads = [borders.conv_reads(n, k, pad_begin=p, pad_end=p) for n, k, p in ends]
        weight = rng.standard_normal((4, 2, *taps))
        maps.append(borders.ZonedMap.uniform_map(rng.standard_normal(2), sizes).convolved(weight, reads))
    both = maps[0].plus(maps[1])
    np.testing.assert_allclose(both.expanded(), maps[0].expanded() + maps[1].expanded())
    assert both.values.shape == (4, 5, 3)
