"""Kernels on fewer channels against a naive convolution."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphopt.numerics.kernels import channels
from graphopt.numerics.kernels.channels import Facts, Labeller
from tests.numerics.kernels.test_algebra import convolve


@given(st.integers(0, 2**20), st.booleans())
def test_reading_fewer_channels_computes_the_same(seed: int, padded: bool) -> None:
    random = np.random.default_rng(seed)
    labels, constant = random.integers(0, 4, 7), np.full(7, np.nan)
    constant[labels == 0] = 0.0
    constant[random.permutation(7)[:2]] = random.normal(size=2)
    labels = np.where(np.isnan(constant), labels, 10 + np.arange(7))
    maps = random.normal(size=(20, 4))
    x = np.where(np.isnan(constant)[:, None], maps[labels], constant[:, None])
    weight, bias = random.normal(size=(5, 7, 3)), random.normal(size=5)
    weight[:, random.permutation(7)[: random.integers(0, 3)]] = 0
    given_, rows = Facts(constant, labels), np.ones(5, np.bool_)
    read = channels.reading(weight, rows, given_, padded=padded)
    columns, every = np.flatnonzero(read.needed), np.arange(5)
    small = channels.narrowed(weight, every, columns, read)
    shift = channels.folded_bias(weight, bias, columns, given_, padded=padded)
    pads = [1, 1] if padded else [0, 0]
    expected = convolve(x, weight, pads=pads) + bias[:, None]
    found = convolve(x[columns], small, pads=pads) if len(columns) else np.zeros(expected.shape)
    np.testing.assert_allclose(found + shift[:, None], expected, atol=1e-12)
    behind = channels.behind_kernel(weight, bias, 1, given_, Labeller(), padded=padded)
    for row, value in enumerate(behind.constant):
        assert np.isnan(value) or np.allclose(expected[row], value)


@given(st.integers(0, 2**20), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3))
def test_groups_stay_even(seed: int, group: int, outs: int, ins: int) -> None:
    random = np.random.default_rng(seed)
    outputs, inputs = random.random(group * outs) < 0.4, random.random(group * ins) < 0.4
    if not outputs.any() and not inputs.any():
        return
    more_out, more_in = channels.even_groups(outputs, inputs, group)
    assert (more_out >= outputs).all() and (more_in >= inputs).all()
    for side in (more_out, more_in):
        assert len({int(n) for n in side.reshape(group, -1).sum(axis=1)} - {0}) == 1
    kernel = random.normal(size=(group * outs, ins, 2))
    small, groups = channels.narrowed_groups(kernel, more_out, more_in, group)
    x = random.normal(size=(group * ins, 5))
    kept = np.where(more_in[:, None], x, 0.0)
    expected = convolve(kept, kernel, group=group)[more_out]
    np.testing.assert_allclose(convolve(x[more_in], small, group=groups), expected, atol=1e-12)


def test_filters_that_look_alike_at_first_are_told_apart() -> None:
    """Equal, zero and different filters that agree in the channels that are glanced at."""
    inside = 2 * channels.GLANCE
    kernel = np.zeros((6, inside, 1), np.float32)
    kernel[:4, : channels.GLANCE] = 1.0
    kernel[1:3, -1] = 2.0
    kernel[3, -1] = 3.0
    kernel[5, -1] = 4.0
    labeller = Labeller()
    given_ = labeller.unknown(inside)
    found = channels.behind_kernel(kernel, None, 1, given_, labeller, padded=False)
    assert found.labels[1] == found.labels[2]
    assert len(set(found.labels.tolist())) == 5
    np.testing.assert_array_equal(found.constant, [np.nan, np.nan, np.nan, np.nan, 0.0, np.nan])


def test_filters_are_equal_that_read_equal_channels_elsewhere() -> None:
    inside = 2 * channels.GLANCE
    labels = np.arange(inside)
    labels[-1] = 0
    kernel = np.zeros((2, inside, 1), np.float32)
    kernel[0, 0] = kernel[1, -1] = 2.0
    given_ = Facts(np.full(inside, np.nan), labels)
    found = channels.behind_kernel(kernel, None, 1, given_, Labeller(), padded=False)
    assert found.labels[0] == found.labels[1]


def test_a_channel_that_only_a_late_filter_reads_is_needed() -> None:
    kernel = np.ones((2 * channels.GLANCE, 3, 1), np.float32)
    kernel[:-1, 1] = 0.0
    rows = np.ones(len(kernel), np.bool_)
    given_ = Labeller().unknown(3)
    assert channels.reading(kernel, rows, given_, padded=False).needed.all()
    rows[-1] = False
    found = channels.reading(kernel, rows, given_, padded=False)
    np.testing.assert_array_equal(found.needed, [True, False, True])
