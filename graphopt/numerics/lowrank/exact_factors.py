"""Exact factors of a convolution kernel other than Tucker's: separable, depthwise, and of large matrices.

All kernels are of one group, ``[out_channels o, in_channels i, *taps]``, and results are in float64. What has
the rank that the caller names comes back without loss up to rounding; a higher one is cut to the best
approximation of that rank.

Ranks are found of kernels whose channels are `balance.balanced`, and what is cut is below the rounding of
each output channel: beside one a thousand times as large, another would pass for the rounding of float16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.numerics.lowrank.tucker import (
    FLOAT32_EPS,
    has_rank,
    numerical_rank,
    rank_by_output,
    rounding_norm,
)
from graphopt.types import Array

Float64 = npt.NDArray[np.float64]

LARGEST_SEARCH = 512
"""Rank up to which large matrices are searched: derived, half of `LARGE`: factors of a square matrix pay
below half of its rows. Of larger ones higher ranks are left."""
LARGE = 1024
"""Rows and columns above which a matrix is large. Measured by benchmarks.thresholds: all singular values of
512, 1,024 and 2,048 rows, of which 8 count, take 0.06, 0.4 and 3.9 seconds, a search 0.01, 0.03 and 0.15; up
to here the exact ones are affordable."""
PROBES = 8
"""Random directions in which a found range is tried. Derived: r of them miss a gap 10 times as large as they
show with probability 10⁻ʳ (Halko, Martinsson and Tropp 2011, lemma 4.1)."""
ROWS_AT_ONCE = 512
"""Rows of a large matrix that are held in float64 at a time: derived, 100 MB at VGG's 25,088 columns; no
result depends on it but by rounding."""


# ---------------------------------------------------------------- separable


def separable_matrix(kernel: Array, first: Sequence[int]) -> Array:
    """Return the matrix whose rank the channels between two one-sided kernels must have.

    W[o, i, a, b] = Σ_r B[o, r, b] A[r, i, a], where a are the taps of the axes `first` and b the others, says
    that the matrix with rows (o, b) and columns (i, a) is a product over r.

    Args:
        kernel: ``[o, i, *taps]``.
        first: the spatial axes that the first operator takes.
    """
    axes = range(kernel.ndim - 2)
    order = [0, *(2 + a for a in axes if a not in first), 1, *(2 + a for a in axes if a in first)]
    rows = kernel.shape[0] * math.prod(kernel.shape[2 + a] for a in axes if a not in first)
    return kernel.transpose(order).reshape(rows, -1)


def separate(kernel: Array, first: Sequence[int], rank: int) -> tuple[Float64, Float64]:
    """Return A ``[rank, i, *taps]`` with extent 1 off `first`, and B ``[o, rank, *taps]`` with 1 on it.

    Args:
        kernel: ``[o, i, *taps]``.
        first: the spatial axes that the first operator takes.
        rank: channels between the two.

    Returns:
        A and B.
    """
    out, inside, *taps = kernel.shape
    left, right = _product(separable_matrix(kernel, first), rank)
    theirs = [1 if axis in first else k for axis, k in enumerate(taps)]
    ours = [k if axis in first else 1 for axis, k in enumerate(taps)]
    second = np.moveaxis(left.reshape(out, *theirs, rank), -1, 1)
    return right.reshape(rank, inside, *ours), np.ascontiguousarray(second)


# ---------------------------------------------------------------- depthwise


def depthwise_slices(kernel: Array, *, last: bool) -> Array:
    """Return one matrix a channel, whose ranks bound the multiplier of a depthwise factor.

    With the pointwise operator `last`, W[o, i, t] = Σ_m P[o, (i, m)] D[(i, m), t]: a matrix ``[o, t]`` an
    input. With the pointwise first, W[o, i, t] = Σ_m D[o, m, t] P[(o, m), i]: a matrix ``[i, t]`` an output.
    """
    flat = kernel.reshape(*kernel.shape[:2], -1)
    return flat.swapaxes(0, 1) if last else flat


def depthwise_then_pointwise(kernel: Array, multiplier: int) -> tuple[Float64, Float64]:
    """Return kernels D ``[i·multiplier, 1, *taps]`` for i groups, and P ``[o, i·multiplier]`` behind it."""
    _, inside, *taps = kernel.shape
    pairs = [_product(matrix, multiplier) for matrix in depthwise_slices(kernel, last=True)]
    depthwise = np.concatenate([right for _, right in pairs])
    return depthwise.reshape(inside * multiplier, 1, *taps), np.concatenate(
        [left for left, _ in pairs], axis=1
    )


def pointwise_then_depthwise(kernel: Array, multiplier: int) -> tuple[Float64, Float64]:
    """Return P ``[o·multiplier, i]``, and D ``[o, multiplier, *taps]`` for o groups behind it."""
    out, _, *taps = kernel.shape
    pairs = [_product(matrix, multiplier) for matrix in depthwise_slices(kernel, last=False)]
    pointwise = np.concatenate([left.T for left, _ in pairs])
    return pointwise, np.stack([right for _, right in pairs]).reshape(out, multiplier, *taps)


def _product(matrix: Array, rank: int) -> tuple[Float64, Float64]:
    """Factors [m, rank] and [rank, n] of a matrix, the norms shared evenly; zeros beyond min(m, n)."""
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    left, right = u[:, :rank] * root, root[:, None] * vt[:rank]
    left[~matrix.any(axis=1)] = 0  # what rounding leaves there is 0
    right[:, ~matrix.any(axis=0)] = 0
    missing = rank - len(root)
    return np.pad(left, ((0, 0), (0, missing))), np.pad(right, ((0, missing), (0, 0)))


# ---------------------------------------------------------------- large matrices


def is_above(matrix: Array, eps: float, pays: int) -> bool:
    """Whether a part of a matrix certifies that its rank is above what pays, however its channels are scaled.

    What rounding could make of each weight stays the same part of it when rows and columns are scaled, so
    that nothing within it makes the scaled matrix lower. False may also mean that this is not known.

    Args:
        matrix: the weights as they are stored, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in.
        pays: the highest rank that is of use; of a large matrix `LARGEST_SEARCH` at the most.

    Returns:
        Whether it is.
    """
    if min(matrix.shape) > LARGE:
        pays = min(pays, LARGEST_SEARCH)
    if not 0 < pays < min(matrix.shape):
        return False
    if matrix.dtype.itemsize < np.dtype(np.float32).itemsize:
        matrix = matrix.astype(np.float32)
    noise = 2 * rounding_norm(matrix, eps + min(eps, FLOAT32_EPS))
    return math.isfinite(noise) and has_rank(matrix, pays + 1, noise)


def find_rank(matrix: Array, eps: float, pays: int, levels: Float64 | None = None) -> int | None:
    """Return the numerical rank, at least 1, if it is at most `pays`, else None.

    Of a matrix with more than `LARGE` rows and columns only ranks up to `LARGEST_SEARCH` are found. Whether
    there is one shows in a part of the matrix: leaving out rows and columns lowers every singular value.

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in.
        pays: the highest rank that is of use.
        levels: of its output channels, see `numerical_rank`.

    Returns:
        The rank, or None where it is higher or was not found.
    """
    if pays < 1:
        return None
    if min(matrix.shape) <= LARGE:
        rank = numerical_rank(matrix, eps, stop=pays + 1, levels=levels)
        return max(rank, 1) if rank <= pays else None
    limit = min(pays, LARGEST_SEARCH)
    some = matrix[np.ix_(_spread(matrix.shape[0], limit + 1), _spread(matrix.shape[1], 2 * (limit + 1)))]
    if _exceeds(some, eps, limit, matrix.shape):
        return None
    found = _range(matrix, eps, limit, levels)
    return None if found is None else max(found[0].shape[1], 1)


def _exceeds(some: Array, eps: float, limit: int, whole: tuple[int, ...]) -> bool:
    """Whether a part [limit + 1, n] of a matrix shows that its rank is above `limit`, without decomposing it.

    Its Gram matrix, less the square of the rounding noise of the whole, is then positive definite.
    """
    part = some.astype(np.float64)
    scale = math.sqrt(sum(whole)) * 2 / math.sqrt(sum(part.shape))  # noise grows with the size
    noise = 2 * scale * rounding_norm(part, eps + min(eps, FLOAT32_EPS))
    gram = part @ part.T
    gram[np.diag_indices(len(gram))] -= noise**2 + len(gram) * np.finfo(np.float64).eps * float(
        np.trace(gram)
    )
    try:
        np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return False
    return limit < len(gram)


def thin_factors(
    matrix: Array, eps: float, rank: int, levels: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Return factors ``[m, rank]`` and ``[rank, n]`` of a matrix of that numerical rank.

    Args:
        matrix: the weights, ``[m, n]``.
        eps: machine epsilon of the type that they were stored in.
        rank: what `find_rank` found.
        levels: what it was given.

    Returns:
        Two factors whose product is the matrix up to rounding.

    Raises:
        ValueError: the rank of a large matrix is higher.
    """
    if min(matrix.shape) <= LARGE:
        return _product(matrix, rank)
    found = _range(matrix, eps, rank, levels)
    if found is None:
        raise ValueError(f"a matrix of shape {matrix.shape} has no numerical rank of {rank}")
    return found


def _range(matrix: Array, eps: float, limit: int, levels: Float64 | None) -> tuple[Float64, Float64] | None:
    """Factors of a large matrix of low rank, by a randomised range finder; None above the limit.

    Products with random vectors span the range of a matrix of low rank; as many as needed are found by
    doubling, and further ones tell when the span holds it (Halko, Martinsson and Tropp 2011, "Finding
    structure with randomness", section 4.3).
    """
    columns = matrix.shape[1]
    random = np.random.default_rng(0)
    size = 32
    while True:
        size = min(size, limit + PROBES)
        seen = _times(matrix, random.standard_normal((columns, size + PROBES)))
        basis = np.linalg.qr(seen[:, :size]).Q
        probes = seen[:, size:]
        missed = probes - basis @ (basis.T @ probes)
        rounding = eps + min(eps, FLOAT32_EPS)
        near = np.linalg.norm(missed) <= 8 * rounding * np.linalg.norm(probes)
        if near and _near_by_output(missed, rounding, levels, columns):
            break
        if size == limit + PROBES:
            return None
        size *= 2
    core = np.concatenate(
        [basis.T @ matrix[:, at : at + 8192].astype(np.float64) for at in range(0, columns, 8192)], axis=1
    )
    u, s, vt = np.linalg.svd(core, full_matrices=False)
    rms = float(np.linalg.norm(s)) / math.sqrt(matrix.size)
    noise = 2 * (eps + min(eps, FLOAT32_EPS)) * rms * (math.sqrt(len(matrix)) + math.sqrt(columns))
    rank = int(np.count_nonzero(s > noise))
    if levels is not None:
        rank = rank_by_output((basis @ u) * s, columns, eps, levels, rank)
    rank = max(rank, 1)
    if rank > limit:
        return None
    root = np.sqrt(s[:rank])
    return (basis @ u[:, :rank]) * root, root[:, None] * vt[:rank]


def _near_by_output(missed: Float64, rounding: float, levels: Float64 | None, columns: int) -> bool:
    """Whether what a range misses is the rounding of each output channel, as seen in the probes."""
    if levels is None:
        return True
    lost = np.linalg.norm(missed.reshape(len(levels), -1), axis=1)
    size = (
        missed.size // len(levels) * columns
    )  # of random numbers, a product with each has the norm of a row
    return bool((lost <= 8 * rounding * levels * math.sqrt(size)).all())


def _times(matrix: Array, vectors: Float64) -> Float64:
    """The product with some vectors, in float64, without a copy of the matrix in float64."""
    parts = range(0, len(matrix), ROWS_AT_ONCE)
    return np.concatenate([matrix[at : at + ROWS_AT_ONCE].astype(np.float64) @ vectors for at in parts])


def _spread(size: int, count: int) -> npt.NDArray[np.int64]:
    """So many positions, evenly over an axis."""
    count = min(count, size)
    return np.arange(count) * size // count
