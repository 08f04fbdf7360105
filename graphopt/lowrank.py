"""Low-rank factors of a convolution kernel, in plain NumPy: exact ones, and the best ones for given data.

A kernel ``[out_channels o, in_channels c, *taps]`` with T taps in all is replaced by at most three,

    1x1 `reduce` [r₁, c]  →  k×k `core` [r₂ or o, r₁ or c, *taps]  →  1x1 `expand` [o, r₂],

that is, W[o, c, t] ≈ Σ over p, q of expand[o, q] · core[q, p, t] · reduce[p, c] (Tucker-2; Kim et al. 2016,
"Compression of deep convolutional neural networks", section 3.1).

**Exact**: `numerical_rank` and `exact_factors`, from singular values against the rounding of the stored
weights.

**Fitted**: with patches x of the layer's input (channel-major, then tap; d = c·T numbers) of mean μ and
covariance S, the output y = W x + b loses E‖y − ŷ‖² = trace((W − Ŵ) S (W − Ŵ)ᵀ) when W becomes Ŵ and the bias
takes up the change of the mean. `errors` predicts that for many ranks at once, `fit` minimises it. For z =
(reduce ⊗ I) x the best map from z to y is B = S_yz S_zz⁻¹, and cut at rank r₂ it is U Uᵀ B with U the leading
eigenvectors of B S_zz Bᵀ: reduced-rank regression (Izenman 1975, "Reduced-rank regression for the
multivariate linear model").

All is deterministic and in float64. A kernel may have any number of spatial axes, and "channels" and "taps"
may be any split of the patch: called with ``[o, c·kh, kw]`` the same functions fit kh×1 → 1×kw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.core import Array

Float64: TypeAlias = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.floating)

RIDGE = 1e-5
"""Variance added in every direction of the patch, relative to the mean variance."""

CONJUGATE_GRADIENT_STEPS = 8
"""More steps fit the rounding noise of the covariance rather than the data."""

FLOAT32_EPS = float(np.finfo(np.float32).eps)
FLOAT64_EPS = float(np.finfo(np.float64).eps)

FLAT = 1e-12
"""Directions whose variance is below this, relative to the largest, carry no signal."""


# The factors


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A kernel as a chain of up to three.

    Attributes:
        reduce: the first 1x1, ``[rank_in, in_channels]``; None where the input side is not cut.
        core: ``[rank_out or out_channels, rank_in or in_channels, *taps]``.
        expand: the last 1x1, ``[out_channels, rank_out]``; None where the output side is not cut.
    """

    reduce: Float64 | None
    core: Float64
    expand: Float64 | None

    def kernel(self) -> Float64:
        """Return the kernel of the chain, ``[out_channels, in_channels, *taps]``."""
        kernel = self.core
        if self.reduce is not None:
            kernel = np.moveaxis(np.tensordot(kernel, self.reduce, axes=(1, 0)), -1, 1)
        if self.expand is not None:
            kernel = np.tensordot(self.expand, kernel, axes=1)
        return np.ascontiguousarray(kernel)

    def balanced(self) -> Factors:
        """Return the same chain with the weights of every inner channel at unit norm.

        The next factor takes the scale up. Rounding is relative, so this loses nothing, and it keeps small
        weights and activations inside the range of float16.
        """
        reduce, core, expand = self.reduce, self.core, self.expand
        if reduce is not None:
            scale = _row_norms(reduce)
            reduce = reduce / scale[:, None]
            core = core * scale.reshape(1, -1, *(1,) * (core.ndim - 2))
        if expand is not None:
            scale = _row_norms(core)
            core = core / scale.reshape(-1, *(1,) * (core.ndim - 1))
            expand = expand * scale
        return Factors(reduce, core, expand)


def _row_norms(matrix: Float64) -> Float64:
    """Norm of each slice along the first axis; 1 for a slice of zeros, which any scale leaves alone."""
    norms: Float64 = np.linalg.norm(matrix.reshape(len(matrix), -1), axis=1)
    return np.where(norms > 0, norms, 1.0)


# Exact factors


def input_unfolding(kernel: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return the matrix ``[in_channels, out_channels · taps]`` whose rank the first 1x1 must have."""
    return np.moveaxis(kernel, 1, 0).reshape(kernel.shape[1], -1)


def output_unfolding(kernel: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return the matrix ``[out_channels, in_channels · taps]`` whose rank the last 1x1 must have."""
    return kernel.reshape(len(kernel), -1)


def rounding_norm(matrix: Array, eps: float) -> float:
    """Estimate the spectral norm of the rounding errors in a matrix of stored weights: eps · rms · (√m + √n).

    That is the norm of an m×n matrix of independent Gaussian entries with standard deviation eps · rms
    (Vershynin 2018, "High-dimensional probability", theorem 7.3.1).

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in, ``np.finfo(dtype).eps``.
    """
    rows, columns = matrix.shape
    rms = _norm(matrix) / math.sqrt(max(1, matrix.size))
    return eps * rms * (math.sqrt(rows) + math.sqrt(columns))


def numerical_rank(matrix: Array, eps: float, stop: int | None = None) -> int:
    """Return the number of singular values above the rounding noise, with a margin.

    Noise comes from storing the weights, from the product that they may have been computed by, in float32 at
    least (over 256 inner channels its errors are twice those of storing float32), and in float64 from the
    decomposition itself.

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in.
        stop: the rank from which the caller no longer cares. Where that many are there, which is mostly
            certified without a singular value decomposition, `stop` is returned.

    Raises:
        ValueError: the weights are not finite.
    """
    noise = 2 * rounding_norm(matrix, eps + min(eps, FLOAT32_EPS))
    noise += math.sqrt(max(matrix.shape)) * FLOAT64_EPS * _norm(matrix)
    if not math.isfinite(noise):
        raise ValueError(f"a matrix of shape {matrix.shape} has weights that are not finite")
    if noise == 0.0:
        return 0
    full = min(matrix.shape)
    if stop is not None and stop <= full and _has_rank(matrix, stop, noise):
        return stop
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    rank = int(np.count_nonzero(values > noise))
    return rank if stop is None else min(rank, stop)


def _norm(matrix: Array) -> float:
    """The Frobenius norm; of float32 in float32, which is precise enough for an estimate of noise."""
    wide = matrix.astype(np.float64) if matrix.dtype == np.float16 else matrix
    return float(np.linalg.norm(wide))


def _has_rank(matrix: Array, rank: int, noise: float) -> bool:
    """Certify by a submatrix that `rank` singular values exceed `noise`; False may also mean "unknown".

    Leaving out rows and columns lowers every singular value (Horn & Johnson 2013, "Matrix analysis",
    corollary 7.3.6), so it is enough that the Gram matrix of `rank` rows, less noise², is positive definite.
    A square block is often nearly singular where a wide one is not: twice as many columns as rows first, then
    all of them.
    """
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    columns = matrix.shape[1]
    strength = np.einsum("ij,ij->i", matrix, matrix)
    strongest = np.sort(np.argsort(strength, kind="stable")[len(matrix) - rank :])
    for width in sorted({min(2 * rank, columns), columns}):
        spread = np.arange(width) * columns // width  # over all channels, not the taps of a few
        block = matrix[np.ix_(strongest, spread)].astype(np.float64)
        gram = block @ block.T
        rounding = rank * FLOAT64_EPS * float(np.trace(gram))
        gram[np.diag_indices(rank)] -= noise**2 + rounding
        try:
            np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            continue
        return True
    return False


def exact_factors(kernel: Array, rank_in: int | None, rank_out: int | None) -> Factors:
    """Return factors from the leading singular vectors of both unfoldings, one side after the other.

    Equal to `kernel` up to rounding where its multilinear rank is no higher; otherwise a truncated
    higher-order singular value decomposition (De Lathauwer et al. 2000, "A multilinear singular value
    decomposition"; sequentially truncated: Vannieuwenhoven et al. 2012), as good as weights alone allow.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        rank_in: rows of `reduce`, orthonormal; None leaves the input side as it is.
        rank_out: columns of `expand`, orthogonal; None leaves the output side as it is.

    Raises:
        ValueError: a rank is not between 1 and the number of channels.
    """
    _check_ranks(kernel, (rank_in,), (rank_out,))
    core, reduce, expand = kernel.astype(np.float64), None, None
    if rank_in is not None:
        reduce = _left_vectors(input_unfolding(core), rank_in).T
        core = np.moveaxis(np.tensordot(reduce, core, axes=(1, 1)), 0, 1)
    if rank_out is not None:
        expand = _left_vectors(output_unfolding(core), rank_out)
        core = np.tensordot(expand.T, core, axes=1)
    return Factors(reduce, np.ascontiguousarray(core), expand).balanced()


def _left_vectors(matrix: Float64, rank: int) -> Float64:
    """Leading `rank` left singular vectors, as columns; those of a wide matrix are those of its triangle."""
    if matrix.shape[1] > matrix.shape[0]:
        matrix = np.linalg.qr(matrix.T).R.T
    vectors: Float64 = np.linalg.svd(matrix, full_matrices=rank > matrix.shape[1])[0]
    return vectors[:, :rank]


# Statistics


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """First and second moments of the patches that a convolution reads.

    Attributes:
        mean: ``[d]`` with d = channels · taps, channel-major.
        covariance: ``[d, d]``, divided by the count (not by count − 1).
        count: number of patches; 0 where the moments are assumed, not measured.
    """

    mean: Float64
    covariance: Float64
    count: int

    @classmethod
    def white(cls, dimension: int) -> Moments:
        """Return what to assume without data: zero mean, uncorrelated numbers of variance 1."""
        return cls(np.zeros(dimension), np.eye(dimension), 0)


class MomentsAccumulator:
    """Gathers `Moments` from batches of patches.

    Patches are shifted by the mean of the first batch before they are multiplied, or the products would drown
    the variance in the square of the mean. Products are taken in float32 and summed in float64; patches that
    come in float64 are multiplied in float64.
    """

    ROWS_AT_ONCE = 4096
    """Bounds the copy of the patches, and the length of a sum in float32."""

    def __init__(self, dimension: int) -> None:
        self._shift: Float64 | None = None
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))
        self._count = 0

    def add(self, rows: Array) -> None:
        """Take in patches ``[n, d]``.

        Raises:
            ValueError: the patches have another dimension.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self._sum):
            raise ValueError(f"patches of shape {rows.shape}: expected [n, {len(self._sum)}]")
        if not len(rows):
            return
        precision: type[np.floating] = np.float64 if rows.dtype == np.float64 else np.float32
        if self._shift is None:
            # through float32, so that all later differences are taken from the same number
            self._shift = rows.mean(axis=0, dtype=np.float64).astype(precision).astype(np.float64)
        shift = self._shift.astype(precision)
        for start in range(0, len(rows), self.ROWS_AT_ONCE):
            centred = rows[start : start + self.ROWS_AT_ONCE].astype(precision) - shift
            self._products += centred.T @ centred
            self._sum += centred.sum(axis=0, dtype=np.float64)
        self._count += len(rows)

    def result(self) -> Moments:
        """Return the moments of all patches so far.

        Raises:
            ValueError: there were none.
        """
        if self._shift is None:
            raise ValueError("no patches were added")
        offset = self._sum / self._count
        covariance = self._products / self._count
        covariance -= np.outer(offset, offset)
        return Moments(self._shift + offset, covariance, self._count)


def relative_error(kernel: Array, approximation: Array, moments: Moments) -> float:
    """Return E‖y − ŷ‖² / Var(y) of an approximate kernel whose bias is corrected for the mean.

    An output that does not vary has no scale to compare with: 0.0 where the approximation's does not vary
    either, else infinity.

    Raises:
        ValueError: the moments have another dimension than the kernel.
    """
    _check_dimension(kernel, moments)
    weight = output_unfolding(kernel).astype(np.float64)
    difference = weight - output_unfolding(approximation)
    flat = FLAT * float(np.sum(weight**2)) * float(np.trace(moments.covariance)) / weight.shape[1]
    variance, lost = (float(np.sum((w @ moments.covariance) * w)) for w in (weight, difference))
    if variance <= flat:
        return 0.0 if lost <= flat else math.inf
    return max(lost, 0.0) / variance


# Fitted factors


class Prediction(NamedTuple):
    """Relative error E‖y − ŷ‖² / Var(y) of the closed form at given ranks; None is a side that is not cut."""

    rank_in: int | None
    rank_out: int | None
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Factors fitted to data.

    Attributes:
        factors: the chain.
        error: E‖y − ŷ‖² / Var(y) under the moments that it was fitted to (`relative_error`).
        bias_shift: ``[out_channels]``, to add to the bias of the convolution; it belongs on the last factor.
    """

    factors: Factors
    error: float
    bias_shift: Float64


def errors(
    kernel: Array,
    moments: Moments,
    ranks_in: Sequence[int | None],
    ranks_out: Sequence[int | None],
    *,
    ridge: float = RIDGE,
) -> list[Prediction]:
    """Predict the relative error of every combination of ranks, without alternation (``fit(…, refine=0)``).

    The rows of `reduce` are nested: those for a lower rank are the first of those for a higher one. So one
    Cholesky factor S_zz = L Lᵀ of the highest rank holds those of all, and what rank r explains, S_yz S_zz⁻¹
    S_zy, is Qᵀ Q of the first r·T rows of Q = L⁻¹ S_zy. One eigen-decomposition of it serves all output
    ranks. The error never grows with a rank.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        moments: of the patches, dimension in_channels · taps.
        ranks_in: ranks of the first 1x1; None for no cut.
        ranks_out: ranks of the last 1x1; None for no cut.
        ridge: as in `fit`; the prediction counts the error on it too.

    Raises:
        ValueError: a rank or the dimension of the moments does not suit the kernel, or numbers are not
            finite.
    """
    _check_ranks(kernel, ranks_in, ranks_out)
    problem = _Problem.of(kernel, moments, ridge)
    spectra = dict(_explained_spectra(problem, sorted({r for r in ranks_in if r is not None})))
    spectra[None] = _descending_eigenvalues(problem.response())
    total = float(spectra[None].sum())
    predictions = []
    for rank_in in ranks_in:
        for rank_out in ranks_out:
            explained = float(spectra[rank_in][:rank_out].sum())
            error = max(0.0, 1 - explained / total) if total > 0 else 0.0
            predictions.append(Prediction(rank_in, rank_out, error))
    return predictions


def fit(
    kernel: Array,
    moments: Moments,
    rank_in: int | None,
    rank_out: int | None,
    *,
    refine: int = 2,
    ridge: float = RIDGE,
) -> Fit:
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
        ridge: variance added in every direction of the patch, relative to the mean variance. It draws the fit
            towards the weights themselves where the data say nothing (dead channels, too few patches).

    Raises:
        ValueError: a rank or the dimension of the moments does not suit the kernel, or numbers are not
            finite.
    """
    _check_ranks(kernel, (rank_in,), (rank_out,))
    problem = _Problem.of(kernel, moments, ridge)
    if rank_in is None:
        reduce, solution = None, _cut_outputs(problem, rank_out)
    else:
        reduce, solution = _alternate(problem, rank_in, rank_out, refine)
    taps = kernel.shape[2:]
    core = solution.core.reshape(len(solution.core), rank_in or kernel.shape[1], *taps)
    factors = Factors(reduce, core, solution.expand).balanced()
    approximation = factors.kernel()
    shift = output_unfolding(kernel.astype(np.float64) - approximation) @ moments.mean
    return Fit(factors, relative_error(kernel, approximation, moments), shift)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """Least squares for the outputs of one kernel, with the ridge in the covariance.

    The outputs are W x also along the ridge, so a fit of full rank is W itself.

    Attributes:
        weight: W, ``[o, c, T]``.
        covariance: S, ``[c, T, T, c]``: rows channel-major, columns tap-major, so that a change of the
            channel basis is one matrix product on either end.
        cross: covariance of output and input, W S, ``[o, T, c]``.
    """

    weight: Float64
    covariance: Float64
    cross: Float64

    @classmethod
    def of(cls, kernel: Array, moments: Moments, ridge: float) -> _Problem:
        _check_dimension(kernel, moments)
        out, channels = kernel.shape[:2]
        if not (np.isfinite(kernel).all() and np.isfinite(moments.covariance).all()):
            raise ValueError(f"weights or moments of a kernel {kernel.shape} are not finite")
        weight = kernel.astype(np.float64).reshape(out, channels, -1)
        taps = weight.shape[2]
        mean_variance = float(np.trace(moments.covariance)) / max(1, channels * taps)
        blocks = moments.covariance.reshape(channels, taps, channels, taps).swapaxes(2, 3)
        covariance = np.array(blocks, np.float64, order="C")
        channel, tap = np.arange(channels)[:, None], np.arange(taps)[None, :]
        # no variance at all says nothing: then every direction counts the same
        covariance[channel, tap, tap, channel] += ridge * mean_variance if mean_variance > 0 else 1.0
        cross = weight.reshape(out, -1) @ covariance.reshape(channels * taps, -1)
        return cls(weight, covariance, cross.reshape(out, taps, channels))

    def response(self) -> Float64:
        """Return the covariance of the outputs, W S Wᵀ, ``[o, o]``."""
        out = len(self.weight)
        return self.cross.reshape(out, -1) @ self.weight.swapaxes(1, 2).reshape(out, -1).T

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


class _Whitening(NamedTuple):
    """A root L of the channels' covariance averaged over taps, C = L Lᵀ, and its inverse, both ``[c, c]``."""

    root: Float64
    inverse: Float64

    @classmethod
    def of(cls, problem: _Problem) -> _Whitening:
        channels = np.einsum("ittj->ij", problem.covariance) / problem.covariance.shape[1]
        values, vectors = np.linalg.eigh((channels + channels.T) / 2)
        deviations = np.sqrt(np.maximum(values, FLAT * values[-1]))
        return cls(vectors * deviations, (vectors / deviations).T)


def _directions(problem: _Problem, whitening: _Whitening) -> Float64:
    """Return all candidates for the rows of `reduce`, ``[c, c]``, the most important first.

    They are the eigenvectors of Σ over outputs and taps of (W_t L)ᵀ(W_t L): optimal where taps are
    uncorrelated and alike. In the data they are uncorrelated, with unit variance.
    """
    rows = problem.weight.swapaxes(1, 2).reshape(-1, problem.weight.shape[1])
    _, vectors = np.linalg.eigh(whitening.root.T @ (rows.T @ rows) @ whitening.root)
    return vectors[:, ::-1].T @ whitening.inverse


def _explained_spectra(problem: _Problem, ranks: list[int]) -> Iterable[tuple[int | None, Float64]]:
    """Yield for each of the ascending input ranks the eigenvalues of the explained covariance, descending."""
    if not ranks:
        return
    out, taps, _ = problem.cross.shape
    inner, cross = problem.encoded(_directions(problem, _Whitening.of(problem))[: ranks[-1]])
    innovations = _solve_lower(_cholesky(inner), cross.T)
    explained, start = np.zeros((out, out)), 0
    for rank in ranks:
        block = innovations[start * taps : rank * taps]
        explained += block.T @ block
        start = rank
        yield rank, _descending_eigenvalues(explained)


def _cut_outputs(problem: _Problem, rank_out: int | None) -> _Solution:
    """Keep the leading principal components of the outputs.

    (Zhang et al. 2016, "Accelerating very deep convolutional networks for classification and detection",
    section 3.1.)
    """
    weight = problem.weight.reshape(len(problem.weight), -1)
    response = problem.response()
    if rank_out is None:
        return _Solution(weight, None, float(np.trace(response)))
    expand = _leading_eigenvectors(response, rank_out)
    return _Solution(expand.T @ weight, expand, float(np.sum(expand * (response @ expand))))


def _alternate(
    problem: _Problem, rank_in: int, rank_out: int | None, refine: int
) -> tuple[Float64, _Solution]:
    """Fit `reduce` and the rest in turn, and return the best of the rounds."""
    whitening = _Whitening.of(problem)
    best_reduce = _directions(problem, whitening)[:rank_in]
    best = _decode(*problem.encoded(best_reduce), rank_out)
    for _ in range(refine):
        reduce = _improve(problem, whitening, best_reduce, best.map())
        solution = _decode(*problem.encoded(reduce), rank_out)
        if not solution.explained > best.explained:
            break
        best_reduce, best = reduce, solution
    return best_reduce, best


def _decode(inner: Float64, cross: Float64, rank_out: int | None) -> _Solution:
    """Reduced-rank regression of y on z, from S_zz and S_yz (Izenman 1975)."""
    lower = _cholesky(inner)
    innovations = _solve_lower(lower, cross.T)
    core = _solve_lower(lower.T[::-1, ::-1], innovations[::-1])[::-1].T  # an upper triangle turned around
    expand = None
    if rank_out is not None:
        expand = _leading_eigenvectors(innovations.T @ innovations, rank_out)
        core = expand.T @ core
    solution = _Solution(np.ascontiguousarray(core), expand, 0.0)
    whole = solution.map()
    return solution._replace(explained=float(np.sum(whole * (2 * cross - whole @ inner))))


def _improve(problem: _Problem, whitening: _Whitening, reduce: Float64, whole: Float64) -> Float64:
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
    whitened = _conjugate_gradients(normal, target @ whitening.inverse.T, start, CONJUGATE_GRADIENT_STEPS)
    orthonormal: Float64 = np.linalg.qr(whitened.T)[0].T
    return orthonormal @ whitening.inverse


# Linear algebra


def _conjugate_gradients(
    operator: Callable[[Float64], Float64], target: Float64, start: Float64, steps: int
) -> Float64:
    """Improve `start` as a solution of operator(x) = target, for a symmetric positive semi-definite operator.

    (Hestenes & Stiefel 1952.) It stops where rounding has made the curvature useless, rather than step into
    it.
    """
    solution = start
    residual = target - operator(start)
    direction = residual
    energy = first_energy = float(np.sum(residual**2))
    for _ in range(steps):
        image = operator(direction)
        curvature = float(np.sum(direction * image))
        if not (curvature > 0 and math.isfinite(energy / curvature)):
            break
        length = energy / curvature
        solution = solution + length * direction
        residual = residual - length * image
        previous, energy = energy, float(np.sum(residual**2))
        if energy < 1e-8 * first_energy:
            break
        direction = residual + energy / previous * direction
    return solution


def _cholesky(matrix: Float64) -> Float64:
    """Lower triangular L with L Lᵀ = `matrix`, whose flat directions are lifted as little as needed."""
    mean = float(np.trace(matrix)) / max(1, len(matrix))
    lift = 0.0
    while lift <= 1.0:
        try:
            lifted = matrix + lift * mean * np.eye(len(matrix)) if lift else matrix
            return np.asarray(np.linalg.cholesky(lifted), np.float64)
        except np.linalg.LinAlgError:
            lift = max(FLAT, 10 * lift)
    raise ValueError("a covariance is not positive semi-definite")


def _solve_lower(lower: Float64, target: Float64, block: int = 128) -> Float64:
    """L⁻¹ · target by blocks; NumPy has no triangular solver, and its general one takes twice the work."""
    solution = np.empty_like(target)
    for start in range(0, len(lower), block):
        rows = slice(start, start + block)
        known = lower[rows, :start] @ solution[:start]
        solution[rows] = np.linalg.solve(lower[rows, rows], target[rows] - known)
    return solution


def _descending_eigenvalues(matrix: Float64) -> Float64:
    """Eigenvalues of a positive semi-definite matrix, largest first, no rounding below zero."""
    values = np.asarray(np.linalg.eigvalsh((matrix + matrix.T) / 2), np.float64)
    return np.maximum(values[::-1], 0.0)


def _leading_eigenvectors(matrix: Float64, count: int) -> Float64:
    """Eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns."""
    vectors: Float64 = np.linalg.eigh((matrix + matrix.T) / 2)[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :count])


def _check_ranks(kernel: Array, ranks_in: Iterable[int | None], ranks_out: Iterable[int | None]) -> None:
    for name, ranks, channels in (("in", ranks_in, kernel.shape[1]), ("out", ranks_out, kernel.shape[0])):
        for rank in ranks:
            if rank is not None and not 1 <= rank <= channels:
                raise ValueError(
                    f"rank_{name} is {rank}: expected 1 to {channels} for a kernel {kernel.shape}"
                )


def _check_dimension(kernel: Array, moments: Moments) -> None:
    dimension = math.prod(kernel.shape[1:])
    if moments.mean.shape != (dimension,) or moments.covariance.shape != (dimension, dimension):
        raise ValueError(
            f"moments of dimension {len(moments.mean)} for a kernel {kernel.shape}: expected {dimension}"
        )
