"""Tucker-2 factors of a convolution kernel that lose least on given data, in plain NumPy.

With patches x of the layer's input (channel-major, then tap; d = c·T numbers) of mean μ and covariance S, the
output y = W x + b loses E‖y − ŷ‖² = trace((W − Ŵ) S (W − Ŵ)ᵀ) when W becomes Ŵ and the bias takes up the
change of the mean. `errors` predicts that for many ranks at once, `fit` minimises it. For z = (reduce ⊗ I) x
the best map from z to y is B = S_yz S_zz⁻¹, and cut at rank r₂ it is U Uᵀ B with U the leading eigenvectors
of B S_zz Bᵀ: reduced-rank regression (Izenman 1975, "Reduced-rank regression for the multivariate linear
model").

All is deterministic and in float64. A kernel may have any number of spatial axes, and "channels" and "taps"
may be any split of the patch: called with ``[o, c·kh, kw]`` the same functions fit kh×1 → 1×kw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from graphopt.numerics.lowrank.linalg import (
    CONJUGATE_GRADIENT_STEPS,
    Whitening,
    cholesky,
    conjugate_gradients,
    descending_eigenvalues,
    leading_eigenvectors,
    solve_lower,
)
from graphopt.numerics.lowrank.moments import Moments, Target, check_dimension, check_fit
from graphopt.numerics.lowrank.tucker import Factors, check_ranks, output_unfolding
from graphopt.types import Array, Float64

RIDGE = 1e-5
"""Variance added in every direction of the patch, relative to the mean variance. Measured by
benchmarks.thresholds: any value from 1e-7 to 1e-3 gives the same within 0.01 dB."""

REFIT_RIDGE = 1e-4
"""The same where the wanted outputs are others than the operator's own, and have noise in them. Measured by
benchmarks.thresholds: with 1e-6, 1e-4 and 1e-2 a network kept 33.9, 33.9 and 34.9 dB on 128 inputs."""


class Prediction(NamedTuple):
    """Relative error E‖y − ŷ‖² / Var(y) of the closed form at given ranks; None is a side that is not cut."""

    rank_in: int | None
    rank_out: int | None
    error: float


def errors(
    kernel: Array,
    moments: Moments,
    ranks_in: Sequence[int | None],
    ranks_out: Sequence[int | None],
) -> list[Prediction]:
    """Predict the relative error of every combination of ranks, without alternation (``refine=0``).

    The rows of `reduce` are nested: those for a lower rank are the first of those for a higher one. So one
    Cholesky factor S_zz = L Lᵀ of the highest rank holds those of all, and what rank r explains, S_yz S_zz⁻¹
    S_zy, is Qᵀ Q of the first r·T rows of Q = L⁻¹ S_zy. One eigen-decomposition of it serves all output
    ranks, and where no output is cut its trace is enough. The error never grows with a rank.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.
        ranks_in: ranks of the first 1x1; None for no cut.
        ranks_out: ranks of the last 1x1; None for no cut.

    Returns:
        A prediction for each pair of ranks, those of one input rank in a row.

    Raises:
        ValueError: a rank or the dimension of the moments does not suit the kernel, or numbers are not
            finite.
    """
    check_ranks(kernel, ranks_in, ranks_out)
    problem = _Problem.of(kernel, moments)
    if all(r is None for r in ranks_out) and _is_narrow_point(kernel):
        carried = descending_eigenvalues(problem.response())
        whole = float(carried.sum()) or 1.0
        lost = {r: max(0.0, 1 - float(carried[:r].sum()) / whole) for r in ranks_in}
        return [Prediction(r, None, lost[r]) for r in ranks_in for _ in ranks_out]
    spectrum = _trace if all(r is None for r in ranks_out) else descending_eigenvalues
    spectra = dict(_explained_spectra(problem, sorted({r for r in ranks_in if r is not None}), spectrum))
    spectra[None] = spectrum(problem.response())
    total = float(spectra[None].sum())
    predictions = []
    for rank_in in ranks_in:
        for rank_out in ranks_out:
            explained = float(spectra[rank_in][:rank_out].sum())
            error = max(0.0, 1 - explained / total) if total > 0 else 0.0
            predictions.append(Prediction(rank_in, rank_out, error))
    return predictions


def fit_factors(
    kernel: Array,
    moments: Moments,
    rank_in: int | None,
    rank_out: int | None,
    *,
    refine: int = 2,
) -> Factors:
    """Return the factors of given ranks that lose least of the output's variance.

    An output side alone has a closed form, the leading principal components of the outputs. An input side
    starts from the directions that carry most of the output when taps are taken as uncorrelated, and then
    alternates: the best `core` and `expand` for `reduce` in closed form, a better `reduce` for them by
    conjugate gradients. The best of the rounds is returned, so `refine` never makes the fit worse.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.
        rank_in: rank of the first 1x1; None for none.
        rank_out: rank of the last 1x1; None for none.
        refine: rounds of alternation.

    Returns:
        The chain, inner channels at unit norm.

    Raises:
        ValueError: a rank or the dimension of the moments does not suit the kernel, or numbers are not
            finite.
    """
    check_ranks(kernel, (rank_in,), (rank_out,))
    problem = _Problem.of(kernel, moments)
    if rank_in is None:
        reduce, solution = None, _cut_outputs(problem, rank_out)
    elif rank_out is None and _is_narrow_point(kernel) and rank_in <= len(kernel):
        cut = _cut_outputs(problem, rank_in)
        assert cut.expand is not None
        reduce, solution = cut.core, _Solution(cut.expand, None, cut.explained)
    else:
        reduce, solution = _alternate(problem, rank_in, rank_out, refine)
    core = solution.core.reshape(len(solution.core), rank_in or kernel.shape[1], *kernel.shape[2:])
    return Factors(reduce, core, solution.expand).balanced()


@dataclass(frozen=True, eq=False)
class _Problem:
    """Least squares for the outputs of one kernel, with the ridge in the covariance.

    The outputs are W x also along the ridge, so a fit of full rank is W itself.

    Attributes:
        weight: W, ``[o, c, T]``.
        covariance: S, ``[c, T, T, c]``: rows channel-major, columns tap-major, so that a change of the
            channel basis is one matrix product on either end.
    """

    weight: Float64
    covariance: Float64

    @classmethod
    def of(cls, kernel: Array, moments: Moments) -> _Problem:
        check_fit(kernel, moments)
        out, channels = kernel.shape[:2]
        weight = kernel.astype(np.float64).reshape(out, channels, -1)
        taps = weight.shape[2]
        blocks = moments.covariance.reshape(channels, taps, channels, taps).swapaxes(2, 3)
        covariance = np.array(blocks, np.float64, order="C")
        channel, tap = np.arange(channels)[:, None], np.arange(taps)[None, :]
        covariance[channel, tap, tap, channel] += moments.ridge(RIDGE)
        return cls(weight, covariance)

    @cached_property
    def cross(self) -> Float64:
        """Covariance of output and input, W S, ``[o, T, c]``."""
        out, channels, taps = self.weight.shape
        product = self.weight.reshape(out, -1) @ self.covariance.reshape(channels * taps, -1)
        return product.reshape(out, taps, channels)

    def response(self) -> Float64:
        """Return the covariance of the outputs, W S Wᵀ, ``[o, o]``."""
        out = len(self.weight)
        return self.cross.reshape(out, -1) @ self.weight.swapaxes(1, 2).reshape(out, -1).T

    def whitening(self) -> Whitening:
        """Of the channels, their covariance averaged over taps."""
        return Whitening.of(np.einsum("ittj->ij", self.covariance) / self.covariance.shape[1])

    def encoded(self, reduce: Float64) -> tuple[Float64, Float64]:
        """Return S_zz ``[r·T, r·T]`` and S_yz ``[o, r·T]`` of z = (reduce ⊗ I) x."""
        out, taps, channels = self.cross.shape
        rank = len(reduce)
        half = (reduce @ self.covariance.reshape(channels, -1)).reshape(-1, channels)
        inner = (half @ reduce.T).reshape(rank, taps, taps, rank).swapaxes(2, 3).reshape(rank * taps, -1)
        cross = (self.cross.reshape(-1, channels) @ reduce.T).reshape(out, taps, rank)
        return (inner + inner.T) / 2, cross.swapaxes(1, 2).reshape(out, -1)


class _Solution(NamedTuple):
    """The fit behind z: ``core [r₂ or o, dim z]``, ``expand [o, r₂]``, and the variance that they explain."""

    core: Float64
    expand: Float64 | None
    explained: float

    def map(self) -> Float64:
        """Return the whole map from z to y, ``[o, dim z]``."""
        return self.core if self.expand is None else self.expand @ self.core


def _directions(problem: _Problem, whitening: Whitening) -> Float64:
    """Return all candidates for the rows of `reduce`, ``[c, c]``, the most important first.

    They are the eigenvectors of Σ over outputs and taps of (W_t L)ᵀ(W_t L): optimal where taps are
    uncorrelated and alike. In the data they are uncorrelated, with unit variance.
    """
    rows = problem.weight.swapaxes(1, 2).reshape(-1, problem.weight.shape[1])
    _, vectors = np.linalg.eigh(whitening.root.T @ (rows.T @ rows) @ whitening.root)
    return vectors[:, ::-1].T @ whitening.inverse


def _explained_spectra(
    problem: _Problem, ranks: list[int], spectrum: Callable[[Float64], Float64]
) -> Iterable[tuple[int | None, Float64]]:
    """Yield for each of the ascending input ranks the spectrum of the explained covariance."""
    if not ranks:
        return
    out, taps, _ = problem.cross.shape
    inner, cross = problem.encoded(_directions(problem, problem.whitening())[: ranks[-1]])
    innovations = solve_lower(cholesky(inner), cross.T)
    explained, start = np.zeros((out, out)), 0
    for rank in ranks:
        block = innovations[start * taps : rank * taps]
        explained += block.T @ block
        start = rank
        yield rank, spectrum(explained)


def input_spectrum(kernel: Array, moments: Moments) -> tuple[float, ...]:
    """Return the part of the output that each input direction carries if taps are uncorrelated.

    These are the squared singular values of the kernel's input side in the metric of the data; a first 1x1 of
    rank r keeps the first r directions.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.

    Returns:
        Parts of 1, descending.
    """
    problem = _Problem.of(kernel, moments)
    root = problem.whitening().root
    rows = problem.weight.swapaxes(1, 2).reshape(-1, problem.weight.shape[1])
    return _parts(descending_eigenvalues(root.T @ (rows.T @ rows) @ root))


def output_spectrum(kernel: Array, moments: Moments) -> tuple[float, ...]:
    """Return the part of the output's variance along each of its principal directions, descending.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.

    Returns:
        Parts of 1.
    """
    return _parts(descending_eigenvalues(_Problem.of(kernel, moments).response()))


def _parts(values: Float64) -> tuple[float, ...]:
    total = float(values.sum())
    return tuple(float(v) / total if total > 0 else 0.0 for v in values)


def nearest_kernel(kernel: Array, moments: Moments, target: Target, *, part: float = 1.0) -> Float64:
    """Return the kernel whose outputs come nearest to wanted ones: least squares, drawn towards `kernel`.

    What is wanted is what the original network makes of its own inputs, while the patches are those of the
    network as compressed so far; this corrects for the difference (asymmetric reconstruction; Zhang et al.
    2016, "Accelerating very deep convolutional networks for classification and detection", section 3.3).
    With W the given kernel it is W + part · (S_yx − W S)(S + ridge)⁻¹. For any Ŵ, E‖y − Ŵx‖² is E‖(B −
    Ŵ)x‖² and what B leaves, so fitting B on the same moments fits the target.

    Args:
        kernel: ``[o, c, *taps]``, the original one.
        moments: of the patches x, dimension c · taps.
        target: of the wanted outputs y.
        part: how much of the correction to take, from 0 to 1; less where there are few patches.

    Returns:
        ``[o, c, *taps]``.
    """
    check_dimension(kernel, moments)
    weight = output_unfolding(kernel).astype(np.float64)
    if not part:
        return weight.reshape(kernel.shape)
    covariance = (moments.covariance + moments.covariance.T) / 2
    missing = part * (target.cross - weight @ covariance)
    covariance[np.diag_indices(len(covariance))] += moments.ridge(REFIT_RIDGE)
    lower = cholesky(covariance)
    half = solve_lower(lower, missing.T)
    correction = solve_lower(lower.T[::-1, ::-1], half[::-1])[::-1].T
    return (weight + correction).reshape(kernel.shape)


def target_error(approximation: Array, moments: Moments, target: Target) -> float:
    """Return E‖y − ŷ‖² of an approximate kernel against wanted outputs, the bias corrected for the mean.

    Args:
        approximation: the kernel to judge, ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.
        target: of the wanted outputs.

    Returns:
        The squared error summed over the outputs, at least 0.
    """
    weight = output_unfolding(approximation).astype(np.float64)
    lost = target.variance - 2 * float(np.sum(weight * target.cross))
    return max(lost + float(np.sum((weight @ moments.covariance) * weight)), 0.0)


def _is_narrow_point(kernel: Array) -> bool:
    """Whether a kernel has one tap and no more outputs than inputs, so that the outputs' side is the smaller.

    A matrix has one rank: to cut its inputs or its outputs is the same, and the outputs have a closed form.
    """
    return math.prod(kernel.shape[2:]) == 1 and kernel.shape[0] <= kernel.shape[1]


def _cut_outputs(problem: _Problem, rank_out: int | None) -> _Solution:
    """Keep the leading principal components of the outputs.

    (Zhang et al. 2016, "Accelerating very deep convolutional networks for classification and detection",
    section 3.1.)
    """
    weight = problem.weight.reshape(len(problem.weight), -1)
    response = problem.response()
    if rank_out is None:
        return _Solution(weight, None, float(np.trace(response)))
    expand = leading_eigenvectors(response, rank_out)
    return _Solution(expand.T @ weight, expand, float(np.sum(expand * (response @ expand))))


def _alternate(
    problem: _Problem, rank_in: int, rank_out: int | None, refine: int
) -> tuple[Float64, _Solution]:
    """Fit `reduce` and the rest in turn, and return the best of the rounds."""
    whitening = problem.whitening()
    best_reduce = _directions(problem, whitening)[:rank_in]
    best = decode(*problem.encoded(best_reduce), rank_out)
    for _ in range(refine):
        reduce = _improve(problem, whitening, best_reduce, best.map())
        solution = decode(*problem.encoded(reduce), rank_out)
        if not solution.explained > best.explained:
            break
        best_reduce, best = reduce, solution
    return best_reduce, best


def decode(inner: Float64, cross: Float64, rank_out: int | None) -> _Solution:
    """Reduced-rank regression of y on z, from S_zz and S_yz (Izenman 1975).

    Args:
        inner: S_zz ``[z, z]``.
        cross: S_yz ``[o, z]``.
        rank_out: rank of the map; None for full rank.

    Returns:
        The best map from z to y, and the variance that it explains.
    """
    lower = cholesky(inner)
    innovations = solve_lower(lower, cross.T)
    core = solve_lower(lower.T[::-1, ::-1], innovations[::-1])[::-1].T  # an upper triangle turned around
    expand = None
    if rank_out is not None:
        expand = leading_eigenvectors(innovations.T @ innovations, rank_out)
        core = expand.T @ core
    solution = _Solution(np.ascontiguousarray(core), expand, 0.0)
    whole = solution.map()
    return solution._replace(explained=float(np.sum(whole * (2 * cross - whole @ inner))))


def _improve(problem: _Problem, whitening: Whitening, reduce: Float64, whole: Float64) -> Float64:
    """Return a better `reduce` for a given map ``[o, r·T]`` behind it.

    Least squares for E in y ≈ Σ over t of A_t E x_t. Its normal equations Σ over t, u of A_uᵀ A_t E S_tu =
    Σ over u of A_uᵀ S_yx,u are solved in whitened coordinates F = E L, in which few steps go far. The result
    is made orthonormal there; the map behind it is fitted anew anyway.
    """
    out, taps, channels = problem.cross.shape
    rank = len(reduce)
    blocks = whole.reshape(out, rank, taps)
    flat = whole.reshape(out, rank * taps)
    products = (flat.T @ flat).reshape(rank, taps, rank, taps)  # [p, u, q, t]
    coupling = products.transpose(0, 2, 3, 1).reshape(rank, -1)
    covariance = problem.covariance.reshape(channels, -1)

    def normal(whitened: Float64) -> Float64:
        half = (whitened @ whitening.inverse) @ covariance  # [q, t, u, c]
        return (coupling @ half.reshape(-1, channels)) @ whitening.inverse.T

    target = blocks.swapaxes(0, 1).reshape(rank, -1) @ problem.cross.reshape(-1, channels)
    start = reduce @ whitening.root
    whitened = conjugate_gradients(normal, target @ whitening.inverse.T, start, CONJUGATE_GRADIENT_STEPS)
    orthonormal: Float64 = np.linalg.qr(whitened.T)[0].T
    return orthonormal @ whitening.inverse


def _trace(matrix: Float64) -> Float64:
    """The sum of the eigenvalues alone, ``[1]``."""
    return np.array([max(0.0, float(np.trace(matrix)))])
