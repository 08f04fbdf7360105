"""Convolutions on repeated pixels against a naive convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.numerics.kernels import phases
from tests.numerics.kernels.test_algebra import convolve, transposed_convolve


def repeated(x: np.ndarray, scales: tuple[int, ...]) -> np.ndarray:
    for axis, scale in enumerate(scales, start=1):
        x = np.repeat(x, scale, axis=axis)
    return x


@st.composite
def sites(draw: st.DrawFn) -> dict:
    """A convolution on a repeated map whose output is not empty."""
    axes = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    scales, taps, dilations = each(1, 5), each(1, 4), each(1, 3)
    begin, end = each(0, 3), each(0, 3)
    strides = tuple(
        draw(st.sampled_from([k for k in (1, 2, 3, 4, 6) if k % s == 0 or s % k == 0])) for s in scales
    )
    sizes = [draw(st.integers(1, 5)) for _ in range(axes)]
    for a in range(axes):
        while scales[a] * sizes[a] + begin[a] + end[a] < dilations[a] * (taps[a] - 1) + 1:
            sizes[a] += 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "x": rng.standard_normal((2, *sizes)),
        "kernel": rng.standard_normal((2, 2, *taps)),
        "scales": scales,
        "strides": strides,
        "dilations": dilations,
        "pads": (*begin, *end),
    }


def axes_of(site: dict) -> list[phases.Axis]:
    count = len(site["scales"])
    found = [
        phases.axis(
            site["scales"][a],
            site["kernel"].shape[2 + a],
            stride=site["strides"][a],
            dilation=site["dilations"][a],
            pad_begin=site["pads"][a],
            pad_end=site["pads"][a + count],
        )
        for a in range(count)
    ]
    assert all(axis is not None for axis in found)
    return [axis for axis in found if axis is not None]


@settings(max_examples=150, deadline=None)
@given(sites())
def test_phases_in_turn_are_the_convolution(site: dict) -> None:
    """Interleaving the phases' convolutions of the map gives the convolution of the repeated map."""
    expected = convolve(
        repeated(site["x"], site["scales"]),
        site["kernel"],
        stride=site["strides"],
        dilation=site["dilations"],
        pads=site["pads"],
    )
    axes = axes_of(site)
    counts = [axis.positions(size) for axis, size in zip(axes, site["x"].shape[1:], strict=True)]
    found = np.full((2, *(axis.period * n for axis, n in zip(axes, counts, strict=True))), np.nan)
    for place in np.ndindex(*(axis.period for axis in axes)):
        chosen = [axis.phases[r] for axis, r in zip(axes, place, strict=True)]
        begins = [-phase.first for phase in chosen]
        ends = [axis.pad_end[r] for axis, r in zip(axes, place, strict=True)]
        assert min(begins) >= 0 and min(ends) >= 0
        part = convolve(
            site["x"],
            phases.phase_kernel(site["kernel"], chosen),
            stride=[axis.step for axis in axes],
            dilation=[phase.dilation for phase in chosen],
            pads=(*begins, *ends),
        )
        assert list(part.shape[1:]) == counts
        found[(slice(None), *(slice(r, None, axis.period) for axis, r in zip(axes, place, strict=True)))] = (
            part
        )
    surplus = tuple(slice(None, size) for size in expected.shape[1:])
    assert [axis.surplus for axis in axes] == [
        b - a for a, b in zip(expected.shape[1:], found.shape[1:], strict=True)
    ]
    np.testing.assert_allclose(found[(slice(None), *surplus)], expected, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(sites())
def test_transposed_kernel_is_the_convolution(site: dict) -> None:
    """One transposed convolution of the map, less the pads, gives the convolution of the repeated map."""
    count = len(site["scales"])
    expected = convolve(
        repeated(site["x"], site["scales"]), site["kernel"], dilation=site["dilations"], pads=site["pads"]
    )
    kernel, dilations = phases.transposed_kernel(site["kernel"], site["scales"], site["dilations"])
    spread = np.zeros(
        (*kernel.shape[:2], *((k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilations, strict=True)))
    )
    spread[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = kernel
    whole = transposed_convolve(site["x"], spread.swapaxes(0, 1), 1, site["scales"])
    reach = [d * (k - 1) for k, d in zip(site["kernel"].shape[2:], site["dilations"], strict=True)]
    crop = [r - p for r, p in zip(reach * 2, site["pads"], strict=True)]
    padded = np.pad(whole, [(0, 0), *((max(-crop[a], 0), max(-crop[a + count], 0)) for a in range(count))])
    inner = tuple(slice(max(crop[a], 0), padded.shape[1 + a] - max(crop[a + count], 0)) for a in range(count))
    np.testing.assert_allclose(padded[(slice(None), *inner)], expected, atol=1e-12)


def test_catalogue_counts() -> None:
    """Four 2x2 kernels at ×2, 25 taps at ×8; a 5x5 at ×2 has 2·3 pixels an axis."""
    assert phases.axis(2, 3, pad_begin=1, pad_end=1).taps == 4  # type: ignore[union-attr]
    assert phases.axis(8, 3, pad_begin=1, pad_end=1).taps == 5  # type: ignore[union-attr]
    assert phases.axis(2, 5, pad_begin=2, pad_end=2).taps == 6  # type: ignore[union-attr]


def test_strides_without_a_common_period_are_refused() -> None:
    """Stride 3 on pixels repeated twice changes its place within a pixel from output to output."""
    assert phases.axis(2, 3, stride=3) is None
    with pytest.raises(ValueError, match="scale 0"):
        phases.axis(0, 3)


@pytest.mark.parametrize("scale", range(1, 9))
@pytest.mark.parametrize("mode", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize(
    "transformation",
    ["asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "tf_half_pixel_for_nn"],
)
def test_repeats_follows_the_formula(scale: int, mode: str, transformation: str) -> None:
    """`repeats` says what the formulas of ONNX Resize say in exact arithmetic."""
    from fractions import Fraction
    from math import ceil, floor

    size = 7
    rounding = {
        "floor": floor,
        "ceil": ceil,
        "round_prefer_floor": lambda v: ceil(v - Fraction(1, 2)),
        "round_prefer_ceil": lambda v: floor(v + Fraction(1, 2)),
    }[mode]
    shift = {"asymmetric": Fraction(0), "tf_half_pixel_for_nn": Fraction(1, 2 * scale)}.get(
        transformation, Fraction(1, 2 * scale) - Fraction(1, 2)
    )
    found = [min(max(rounding(Fraction(y, scale) + shift), 0), size - 1) for y in range(size * scale)]
    expected = [y // scale for y in range(size * scale)]
    assert phases.repeats(scale, transformation, mode) == (found == expected)
