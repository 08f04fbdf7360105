"""Tucker-2 factors of a convolution kernel, 1x1 → k×k → 1x1, and its numerical rank, in plain NumPy.

A kernel ``[out_channels o, in_channels c, *taps]`` with T taps in all is replaced by at most three,

    1x1 `reduce` [r₁, c]  →  k×k `core` [r₂ or o, r₁ or c, *taps]  →  1x1 `expand` [o, r₂],

that is, W[o, c, t] ≈ Σ over p, q of expand[o, q] · core[q, p, t] · reduce[p, c] (Tucker-2; Kim et al. 2016,
"Compression of deep convolutional neural networks", section 3.1).

`numerical_rank` and `exact_factors` go by singular values against the rounding of the stored weights;
`numerics.lowrank.tucker_fit` fits factors to data. All is deterministic and in float64. A kernel may have any
number of spatial axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from graphopt.numerics.lowrank.moments import rooted
from graphopt.types import Array, Float64

Scalar = TypeVar("Scalar", bound=np.floating)

FLOAT32_EPS = float(np.finfo(np.float32).eps)
FLOAT64_EPS = float(np.finfo(np.float64).eps)


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

    def mixed(self, matrix: Float64) -> Factors:
        """Return the chain whose outputs are a matrix ``[out, out]``, or its diagonal, times this one's."""
        if self.expand is not None:
            return Factors(self.reduce, self.core, rooted(matrix, self.expand))
        return Factors(self.reduce, rooted(matrix, self.core), None)

    def balanced(self) -> Factors:
        """Return the same chain with the weights of every inner channel at unit norm.

        The next factor takes the scale up. Rounding is relative, so this loses nothing, and it keeps small
        weights and activations inside the range of float16.
        """
        reduce, core, expand = self.reduce, self.core, self.expand
        if reduce is not None:
            scale = row_norms(reduce)
            reduce = reduce / scale[:, None]
            core = core * scale.reshape(1, -1, *(1,) * (core.ndim - 2))
        if expand is not None:
            scale = row_norms(core)
            core = core / scale.reshape(-1, *(1,) * (core.ndim - 1))
            expand = expand * scale
        return Factors(reduce, core, expand)


def row_norms(matrix: Float64) -> Float64:
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


def epsilon(dtype: np.dtype[np.floating]) -> float:
    """Machine epsilon of a float type, bfloat16 among them."""
    one, two = np.array([1, 2], dtype)
    return float(np.nextafter(one, two)) - 1  # np.finfo knows no bfloat16


def rounding_norm(matrix: Array, eps: float) -> float:
    """Estimate the spectral norm of the rounding errors in a matrix of stored weights: eps · rms · (√m + √n).

    That is the norm of an m×n matrix of independent Gaussian entries with standard deviation eps · rms
    (Vershynin 2018, "High-dimensional probability", theorem 7.3.1).

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in, see `epsilon`.
    """
    rows, columns = matrix.shape
    rms = _norm(matrix) / math.sqrt(max(1, matrix.size))
    return eps * rms * (math.sqrt(rows) + math.sqrt(columns))


def numerical_rank(matrix: Array, eps: float, stop: int | None = None, levels: Float64 | None = None) -> int:
    """Return the number of singular values above the rounding noise, with a margin.

    Noise comes from storing the weights, from the product that they may have been computed by, in float32 at
    least (over 256 inner channels its errors are twice those of storing float32), and in float64 from the
    decomposition itself.

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in.
        stop: the rank from which the caller no longer cares. Where that many are there, which is mostly
            certified without a singular value decomposition, `stop` is returned.
        levels: root mean square weight of each output channel, whose rows follow each other in the matrix, as
            many for each; what is cut is then below the rounding of each of them too.

    Returns:
        The rank, `stop` at the most.

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
    if stop is not None and stop <= full and has_rank(matrix, stop, noise):
        return stop
    wide = matrix.astype(np.float64)
    rank = int(np.count_nonzero(np.linalg.svd(wide, compute_uv=False) > noise))
    if levels is not None and (stop is None or rank < stop):
        u, s, _ = np.linalg.svd(wide, full_matrices=False)
        rank = rank_by_output(u * s, matrix.shape[1], eps, levels, rank)
    return rank if stop is None else min(rank, stop)


def rank_by_output(directions: Float64, columns: int, eps: float, levels: Float64, least: int) -> int:
    """Return the rank from which on what is cut of each output channel is below twice its rounding.

    Args:
        directions: left singular vectors times singular values, ``[m, r]``.
        columns: n, of the matrix.
        eps: machine epsilon of the type that its weights were stored in.
        levels: root mean square weight of each output channel, see `numerical_rank`.
        least: the lowest rank that comes into question.

    Returns:
        The rank, r at the most.
    """
    squares = np.add.reduceat(
        directions**2, np.arange(len(levels)) * (len(directions) // len(levels)), axis=0
    )
    left = np.cumsum(squares[:, ::-1], axis=1)[:, ::-1]  # of each channel, what is cut from each rank on
    size = len(directions) // len(levels) * columns
    allowed = (2 * (eps + min(eps, FLOAT32_EPS)) * levels) ** 2 * size
    full = directions.shape[1]
    return next((rank for rank in range(least, full) if np.all(left[:, rank] <= allowed)), full)


def _norm(matrix: Array) -> float:
    """The Frobenius norm; of float32 in float32, which is precise enough for an estimate of noise."""
    wide = matrix.astype(np.float64) if matrix.dtype == np.float16 else matrix
    return float(np.linalg.norm(wide))


def has_rank(matrix: Array, rank: int, noise: float) -> bool:
    """Certify by a submatrix that `rank` singular values exceed `noise`; False may also mean "unknown".

    Leaving out rows and columns lowers every singular value (Horn & Johnson 2013, "Matrix analysis",
    corollary 7.3.6), so it is enough that the Gram matrix of `rank` rows, less noise², is positive definite.
    A square block is often nearly singular where a wide one is not: a quarter more columns than rows first,
    then twice as many, then all of them.

    Args:
        matrix: the weights, ``[m, n]``.
        rank: how many.
        noise: what they have to exceed.

    Returns:
        Whether they do.
    """
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    columns = matrix.shape[1]
    strength = np.einsum("ij,ij->i", matrix, matrix)
    strongest = np.sort(np.argsort(strength, kind="stable")[len(matrix) - rank :])
    for width in sorted({min(rank + rank // 4, columns), min(2 * rank, columns), columns}):
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

    Returns:
        The chain, inner channels at unit norm.

    Raises:
        ValueError: a rank is not between 1 and the number of channels.
    """
    check_ranks(kernel, (rank_in,), (rank_out,))
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


def check_ranks(kernel: Array, ranks_in: Iterable[int | None], ranks_out: Iterable[int | None]) -> None:
    """Raise ValueError unless all ranks are between 1 and the channels of their side.

    Args:
        kernel: ``[out_channels, in_channels, *taps]``.
        ranks_in: ranks of the input side; None for no cut.
        ranks_out: ranks of the output side; None for no cut.

    Raises:
        ValueError: a rank is less than 1 or more than the channels of its side.
    """
    for name, ranks, channels in (("in", ranks_in, kernel.shape[1]), ("out", ranks_out, kernel.shape[0])):
        for rank in ranks:
            if rank is not None and not 1 <= rank <= channels:
                raise ValueError(
                    f"rank_{name} is {rank}: expected 1 to {channels} for a kernel {kernel.shape}"
                )
