"""Spatially and depthwise separable fits of kernels, with the least loss on given data, in plain NumPy.

Both are the encoder-decoder of `numerics.lowrank.tucker_fit`: a linear map z of the patch, then the best map
from z to the output. For a split along the axes, "channels" are pairs of a channel and a tap on the first
axes, and "taps" those on the others. A depthwise kernel encodes each channel on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from graphopt.numerics.lowrank import tucker_fit
from graphopt.numerics.lowrank.linalg import (
    CONJUGATE_GRADIENT_STEPS,
    FLAT,
    cholesky,
    conjugate_gradients,
    solve_lower,
)
from graphopt.numerics.lowrank.moments import Moments, check_fit, rooted
from graphopt.numerics.lowrank.tucker import row_norms
from graphopt.numerics.lowrank.tucker_fit import RIDGE
from graphopt.types import Array, Float64

QUICK = 2_048
"""Numbers of a patch up to which a depthwise kernel is improved in twice the rounds; measured by
benchmarks.thresholds: they lost 0.0074, without it 0.0083. Derived: for 256 output channels the eight
products of a round with a covariance of so many take 0.15 s at `time_model.DENSE_MACS_PER_SECOND`."""


class Pair(NamedTuple):
    """Two kernels that stand for one, and the one that they amount to.

    Attributes:
        first: of the operator that reads the input, ``[middle, in, *taps]``.
        second: of the operator behind it, ``[out, middle, *taps]``.
        kernel: the product, ``[out, in, *taps]``.
    """

    first: Float64
    second: Float64
    kernel: Float64

    def mixed(self, matrix: Float64) -> Pair:
        """Return the pair whose outputs are a matrix ``[out, out]``, or its diagonal, times this one's."""
        second, kernel = (rooted(matrix, each) for each in (self.second, self.kernel))
        return Pair(self.first, second, kernel)


# Along the axes


def separable_errors(
    kernel: Array, moments: Moments, first: Sequence[int], ranks: Sequence[int]
) -> list[float]:
    """Predict E‖y − ŷ‖² / Var(y) for each number of channels between the two operators.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        first: the spatial axes that the first operator takes.
        ranks: channels between the two, each at most in · taps on those axes.

    Returns:
        One error for each of `ranks`, in their order.
    """
    folded, turned = _folded(kernel, moments, first)
    return [p.error for p in tucker_fit.errors(folded, turned, ranks, [None])]


def fit_separable(
    kernel: Array, moments: Moments, first: Sequence[int], rank: int, *, refine: int = 2
) -> Pair:
    """Return the two one-sided kernels of a given rank that lose least of the output's variance.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        first: the spatial axes that the first operator takes.
        rank: channels between the two.
        refine: rounds of alternation.

    Returns:
        The first with extent 1 off `first`, the second with 1 on it, and their product.
    """
    folded, turned = _folded(kernel, moments, first)
    factors = tucker_fit.fit_factors(folded, turned, rank, None, refine=refine)
    assert factors.reduce is not None
    out, inside, *taps = kernel.shape
    ours = [k if axis in first else 1 for axis, k in enumerate(taps)]
    theirs = [1 if axis in first else k for axis, k in enumerate(taps)]
    whole = factors.kernel().reshape(out, inside, *(taps[a] for a in _axes(kernel, first)))
    back = np.argsort([0, 1, *(2 + a for a in _axes(kernel, first))])
    return Pair(
        factors.reduce.reshape(rank, inside, *ours),
        factors.core.reshape(out, rank, *theirs),
        np.ascontiguousarray(whole.transpose(back)),
    )


def separable_spectrum(kernel: Array, moments: Moments, first: Sequence[int]) -> tuple[float, ...]:
    """Return `tucker_fit.input_spectrum` of the channels between the two operators.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        first: the spatial axes that the first operator takes.

    Returns:
        Parts of 1, descending.
    """
    return tucker_fit.input_spectrum(*_folded(kernel, moments, first))


def _axes(kernel: Array, first: Sequence[int]) -> list[int]:
    """The spatial axes, those of the first operator in front."""
    axes = range(kernel.ndim - 2)
    return [*(a for a in axes if a in first), *(a for a in axes if a not in first)]


def _folded(kernel: Array, moments: Moments, first: Sequence[int]) -> tuple[Array, Moments]:
    """The kernel as ``[out, in · taps on the first axes, taps on the others]``, and moments in that order."""
    out, inside, *taps = kernel.shape
    order = _axes(kernel, first)
    turned = kernel.transpose(0, 1, *(2 + a for a in order))
    inner = inside * math.prod(taps[a] for a in order if a in first)
    if order != sorted(order):
        index = np.arange(inside * math.prod(taps)).reshape(inside, *taps)
        moments = moments.part(index.transpose(0, *(1 + a for a in order)).ravel())
    return turned.reshape(out, inner, -1), moments


# Depthwise, then pointwise


def depthwise_errors(kernel: Array, moments: Moments, multipliers: Sequence[int]) -> list[float]:
    """Predict E‖y − ŷ‖² / Var(y) for each number of depthwise kernels a channel.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        multipliers: kernels a channel, each below the number of taps.

    Returns:
        One error for each of `multipliers`, in their order.
    """
    weight, covariance, total = _prepared(kernel, moments)
    channels = kernel.shape[1]
    highest = max(multipliers)
    # multiplier-major, so that those of a lower multiplier come first
    encoders = _encoders(weight, covariance, channels)[:, :highest].swapaxes(0, 1)
    inner, cross = _encoded(weight, covariance, encoders)
    innovations = solve_lower(cholesky(inner), cross.T)
    energy = np.sum(innovations**2, axis=1).reshape(highest, channels).sum(axis=1)
    explained = np.cumsum(energy)
    return [max(0.0, 1.0 - float(explained[m - 1]) / total) if total > 0 else 0.0 for m in multipliers]


def fit_depthwise(kernel: Array, moments: Moments, multiplier: int, *, refine: int = 2) -> Pair:
    """Return a depthwise kernel ``[in · multiplier, 1, *taps]`` and the best pointwise one behind it.

    The kernels of each channel start as the leading right singular vectors of its slice of the weights in the
    metric of that channel's own covariance, and alternate with the pointwise kernel ``refine`` times. The
    best of the rounds is returned.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        multiplier: depthwise kernels a channel.
        refine: rounds of alternation.

    Returns:
        The two kernels, each depthwise one at unit norm, and their product.
    """
    weight, covariance, _ = _prepared(kernel, moments)
    out, channels, *taps = kernel.shape
    _, directions, inverse = _channel_values(weight, covariance, channels)
    whitened = directions[:, :multiplier]
    encoders = (whitened @ inverse).swapaxes(0, 1)
    best = tucker_fit.decode(*_encoded(weight, covariance, encoders), None)
    for _ in range(refine * (2 if weight.shape[1] <= QUICK else 1)):
        point = best.core.reshape(out, multiplier, channels)
        whitened = _improved(weight, covariance, point, whitened, inverse)
        better = (whitened @ inverse).swapaxes(0, 1)
        solution = tucker_fit.decode(*_encoded(weight, covariance, better), None)
        if not solution.explained > best.explained:
            break
        encoders, best = better, solution
    mixing = best.core
    deep = encoders.swapaxes(0, 1).reshape(channels * multiplier, -1)
    mixing = mixing.reshape(out, multiplier, channels).swapaxes(1, 2).reshape(out, -1)
    scale = row_norms(deep)
    deep, mixing = deep / scale[:, None], mixing * scale
    whole = np.einsum(
        "ocm,cmt->oct", mixing.reshape(out, channels, -1), deep.reshape(channels, multiplier, -1)
    )
    return Pair(
        deep.reshape(channels * multiplier, 1, *taps),
        np.ascontiguousarray(mixing).reshape(out, -1, *(1,) * len(taps)),
        whole.reshape(kernel.shape),
    )


def _improved(
    weight: Float64, covariance: Float64, point: Float64, whitened: Float64, inverse: Float64
) -> Float64:
    """Return better kernels of each channel, ``[c, m, T]`` in whitened coordinates, for a pointwise kernel.

    Least squares for the kernels D in W ≈ Σ over m of P[o, m, i] · D[i, m, t], all channels together, by
    conjugate gradients; D = F L⁻¹ with F the whitened kernels and L a root of each channel's covariance.
    """
    shape = (len(weight), len(whitened), -1)

    def gradient(kernel: Float64) -> Float64:
        response = (kernel.reshape(len(kernel), -1) @ covariance).reshape(shape)
        found: Float64 = np.einsum("omc,oct->cmt", point, response, optimize=True)
        return found @ inverse.swapaxes(1, 2)

    def normal(kernels: Float64) -> Float64:
        return gradient(np.einsum("omc,cmt->oct", point, kernels @ inverse, optimize=True))

    return conjugate_gradients(normal, gradient(weight), whitened, CONJUGATE_GRADIENT_STEPS)


def depthwise_spectrum(kernel: Array, moments: Moments) -> tuple[float, ...]:
    """Return the part of the output that each further kernel a channel carries, channels on their own.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.

    Returns:
        Parts of 1, descending.
    """
    weight, covariance, _ = _prepared(kernel, moments)
    energy = _channel_values(weight, covariance, kernel.shape[1])[0].sum(axis=0)
    return tuple(float(e) for e in energy / max(float(energy.sum()), 1e-300))


def _prepared(kernel: Array, moments: Moments) -> tuple[Float64, Float64, float]:
    """W ``[o, d]``, S with the ridge ``[d, d]``, and the variance of the outputs."""
    check_fit(kernel, moments)
    weight = kernel.reshape(len(kernel), -1).astype(np.float64)
    covariance = moments.covariance + moments.ridge(RIDGE) * np.eye(weight.shape[1])
    return weight, covariance, float(np.sum((weight @ covariance) * weight))


def _channel_values(weight: Float64, covariance: Float64, channels: int) -> tuple[Float64, Float64, Float64]:
    """Energies ``[c, T]``, directions and inverse roots ``[c, T, T]`` of each channel on its own."""
    taps = weight.shape[1] // channels
    index = np.arange(channels)
    own = covariance.reshape(channels, taps, channels, taps)[index, :, index, :]
    values, vectors = np.linalg.eigh((own + own.swapaxes(1, 2)) / 2)
    deviations = np.sqrt(np.maximum(values, FLAT * values[:, -1:]))
    deviations = np.where(deviations > 0, deviations, 1.0)
    root, inverse = vectors * deviations[:, None, :], (vectors / deviations[:, None, :]).swapaxes(1, 2)
    sliced = np.einsum("oct,ctu->cou", weight.reshape(len(weight), channels, taps), root)
    energy, directions = np.linalg.eigh(sliced.swapaxes(1, 2) @ sliced)
    return np.maximum(energy[:, ::-1], 0.0), directions[:, :, ::-1].swapaxes(1, 2), inverse


def _encoders(weight: Float64, covariance: Float64, channels: int) -> Float64:
    """All kernels of each channel, ``[c, T, T]``, the most important first; their outputs have variance 1."""
    _, directions, inverse = _channel_values(weight, covariance, channels)
    return directions @ inverse


def _encoded(weight: Float64, covariance: Float64, encoders: Float64) -> tuple[Float64, Float64]:
    """S_zz ``[m·c, m·c]`` and S_yz ``[o, m·c]`` of the depthwise outputs z, for encoders ``[m, c, T]``."""
    multiplier, channels, taps = encoders.shape
    size = channels * taps
    half = np.einsum("mct,ctd->mcd", encoders, covariance.reshape(channels, taps, size))
    half = half.reshape(multiplier * channels, channels, taps)
    inner = np.einsum("zct,mct->zmc", half, encoders).reshape(multiplier * channels, -1)
    cross = np.einsum("oct,mct->omc", (weight @ covariance).reshape(-1, channels, taps), encoders)
    return (inner + inner.T) / 2, cross.reshape(len(weight), -1)
