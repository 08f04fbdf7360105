"""Canonical polyadic (CP) fits of kernels, pointwise → depthwise → pointwise, to given data; plain NumPy.

    W[o, c, t] ≈ Σ over r of expand[o, r] · depth[r, t] · reduce[r, c]

is a canonical polyadic decomposition with the taps as one mode (Lebedev et al. 2015, "Speeding-up
convolutional neural networks using fine-tuned CP-decomposition"). For z_r = Σ over t of depth[r, t] (reduce
x_t)_r the best expand is S_yz S_zz⁻¹. What that leaves of the output's variance is a function of reduce and
depth alone (variable projection; Golub & Pereyra 1973), and is minimised by L-BFGS in coordinates in which
the channels are white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.numerics.lowrank.lbfgs import lbfgs
from graphopt.numerics.lowrank.linalg import Whitening, cholesky, solve_lower
from graphopt.numerics.lowrank.moments import Moments, check_fit, rooted
from graphopt.numerics.lowrank.tucker import row_norms
from graphopt.numerics.lowrank.tucker_fit import RIDGE
from graphopt.types import Array, Float64

FIT_STEPS = (20, 50, 80)
"""Of the minimisation at most, by how often a fit is to be refined; measured by benchmarks.thresholds: a
quarter of them lost 0.0060, these 0.0041, four times as many 0.0038 in half as much time again."""
STEPS_DOWN = 8
"""From one rank to the next lower one, where errors are predicted; measured by benchmarks.thresholds: 2, 8
and 32 predict 0.035, 0.026 and 0.023."""
WORK = (1e10, 4e10, 8e10)
"""Multiply-accumulates of a minimisation, about; of very wide kernels that is fewer steps. Derived: 0.2, 0.7
and 1.4 seconds at `time_model.DENSE_MACS_PER_SECOND`."""
WEAK = 1e-3
"""What a component carries, as a part of what the strongest does, below which it counts as so much; measured
by benchmarks.thresholds: any value from 1e-5 to 1e-1 gives the same within 0.3 %."""
NEGLIGIBLE = 1e-6
"""Relative error that is not worth a search: derived, what `pipeline.approximate.LEAST_ERROR` calls no
prediction."""
FEWEST_STEPS = 6
"""But not fewer than so many. Measured by benchmarks.thresholds: FIT_STEPS, with 6 throughout what is lost is
0.0094, with a quarter of `FIT_STEPS` 0.0060: the first steps gain the most."""
AT_ONCE = 8
"""Of the components that are left, one in so many is dropped at once, at most; measured by
benchmarks.thresholds: 2, 8 and 32 predict 0.0257, 0.0259 and 0.0251."""
OVERLAP = 1e-4
"""Variance added to each component in the search, as a part of its own: no two may cancel each other.
Measured by benchmarks.thresholds: any value from 1e-6 to 1e-2 gives the same within 1 %."""


class Triple(NamedTuple):
    """Three kernels that stand for one, and the one that they amount to.

    Attributes:
        reduce: of the first pointwise operator, ``[rank, in]``.
        depth: of the depthwise one, ``[rank, 1, *taps]``.
        expand: of the last pointwise one, ``[out, rank]``.
        kernel: the product, ``[out, in, *taps]``.
    """

    reduce: Float64
    depth: Float64
    expand: Float64
    kernel: Float64

    def mixed(self, matrix: Float64) -> Triple:
        """Return the triple whose outputs are a matrix ``[out, out]``, or its diagonal, times this one's."""
        kernel = rooted(matrix, self.kernel)
        return Triple(self.reduce, self.depth, rooted(matrix, self.expand), kernel)


def errors(kernel: Array, moments: Moments, ranks: Sequence[int]) -> list[float]:
    """Predict E‖y − ŷ‖² / Var(y) for each rank.

    The highest is fitted first. Then the components that the output misses least are dropped, those that are
    left are improved a little, and so on down.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        ranks: numbers of components.

    Returns:
        One error for each of `ranks`, in their order.

    Raises:
        ValueError: the moments have another dimension than the kernel, or numbers are not finite.
    """
    problem = _Problem.of(kernel, moments)
    found: dict[int, float] = {}
    components: _Components | None = None
    for rank in sorted(set(ranks), reverse=True):
        if components is None:
            components = problem.improved(problem.start(rank), problem.steps(rank, 0))
        else:
            steps = min(STEPS_DOWN, problem.steps(rank, 0))
            components = problem.improved(problem.pruned(components, rank), steps)
        found[rank] = problem.solved(components).error
    return [found[rank] for rank in ranks]


def fit(kernel: Array, moments: Moments, rank: int, *, refine: int = 2) -> Triple:
    """Return the triple of a rank that loses little of the output's variance.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.
        rank: number of components.
        refine: how long to look: 0, 1 or 2.

    Returns:
        The three kernels, inner channels at unit norm, and their product.

    Raises:
        ValueError: the moments have another dimension than the kernel, or numbers are not finite.
    """
    problem = _Problem.of(kernel, moments)
    components = problem.improved(problem.start(rank), problem.steps(rank, refine))
    expand = problem.solved(components, overlap=0.0, dtype=np.float64).expand
    reduce = components.reduce @ problem.inverse
    for_reduce, for_depth = row_norms(reduce), row_norms(components.depth)
    reduce, depth = reduce / for_reduce[:, None], components.depth / for_depth[:, None]
    expand = expand * (for_reduce * for_depth)
    whole = np.einsum("or,rt,rc->oct", expand, depth, reduce, optimize=True)
    return Triple(reduce, depth.reshape(rank, 1, *kernel.shape[2:]), expand, whole.reshape(kernel.shape))


def spectrum(kernel: Array, moments: Moments) -> tuple[float, ...]:
    """Return the part of the output that each component carries where a fit begins, descending.

    Args:
        kernel: ``[out, in, *taps]``.
        moments: of the patches, dimension in · taps.

    Returns:
        Parts of 1.
    """
    values = np.sort(_Problem.of(kernel, moments).sliced()[1].ravel() ** 2)[::-1]
    return tuple(float(value) for value in values / max(float(values.sum()), 1e-300))


class _Components(NamedTuple):
    """What is looked for: ``reduce [r, c]`` in white coordinates, and ``depth [r, T]``."""

    reduce: Float64
    depth: Float64

    def flat(self) -> Float64:
        """All numbers in a row."""
        return np.concatenate([self.reduce.ravel(), self.depth.ravel()])


class _Solved(NamedTuple):
    """The best expand ``[o, r]``, the relative error that is left, and its gradients."""

    error: float
    expand: Float64
    gradient: _Components


@dataclass(frozen=True, eq=False)
class _Problem:
    """Least squares for the outputs of one kernel, with the ridge in the covariance.

    Attributes:
        weight: W in white coordinates, ``[o, c, T]``.
        covariance: S of the patches in them, ``[d, d]``.
        cross: W S, ``[o, d]``.
        variance: of the outputs.
        inverse: ``[c, c]``, from channels to white coordinates.
    """

    weight: Float64
    covariance: Float64
    cross: Float64
    variance: float
    inverse: Float64

    @classmethod
    def of(cls, kernel: Array, moments: Moments) -> _Problem:
        check_fit(kernel, moments)
        out, channels = kernel.shape[:2]
        taps = math.prod(kernel.shape[2:])
        size = channels * taps
        covariance = moments.covariance + moments.ridge(RIDGE) * np.eye(size)
        blocks = covariance.reshape(channels, taps, channels, taps)
        root, inverse = Whitening.of(np.einsum("itjt->ij", blocks) / taps)
        half = (inverse @ covariance.reshape(channels, -1)).reshape(size, channels, taps)
        white = np.matmul(inverse, half).reshape(size, size)
        weight = np.einsum("oct,ck->okt", kernel.reshape(out, channels, taps).astype(np.float64), root)
        cross = weight.reshape(out, -1) @ white
        variance = float(np.sum(cross * weight.reshape(out, -1)))
        return cls(weight, white, cross, variance, inverse)

    def sliced(self) -> tuple[Float64, Float64, Float64]:
        """Directions ``[c, c]`` of the input, and of each singular values and vectors over the taps."""
        out, channels, taps = self.weight.shape
        rows = self.weight.swapaxes(1, 2).reshape(out * taps, channels)
        _, vectors = np.linalg.eigh(rows.T @ rows)
        directions = vectors[:, ::-1].T
        slices = np.einsum("oct,rc->rot", self.weight, directions, optimize=True)
        _, values, over_taps = np.linalg.svd(slices, full_matrices=False)
        return directions, values, over_taps

    def start(self, rank: int) -> _Components:
        """The largest components of each principal direction of the input."""
        directions, values, over_taps = self.sliced()
        largest = np.argsort(-values, axis=None, kind="stable")[:rank]
        at, nth = np.unravel_index(np.resize(largest, rank), values.shape)
        return _Components(directions[at].copy(), over_taps[at, nth].copy())

    def steps(self, rank: int, refine: int) -> int:
        """Steps that a minimisation takes at the most."""
        level = min(refine, len(FIT_STEPS) - 1)
        return max(FEWEST_STEPS, min(FIT_STEPS[level], int(WORK[level] / (rank * len(self.covariance) ** 2))))

    def improved(self, components: _Components, steps: int) -> _Components:
        """Components with less error, after so many steps."""
        if self.solved(components, overlap=0.0).error < NEGLIGIBLE:
            return components
        components = self.balanced(components)
        shape = components.reduce.shape
        size = components.reduce.size

        def parts(flat: Float64) -> _Components:
            return _Components(flat[:size].reshape(shape), flat[size:].reshape(len(components.depth), -1))

        def function(flat: Float64) -> tuple[float, Float64]:
            found = self.solved(parts(flat))
            return found.error, found.gradient.flat()

        return parts(lbfgs(function, components.flat(), steps))

    @cached_property
    def _narrow(self) -> npt.NDArray[np.float32]:
        """The covariance in float32."""
        return self.covariance.astype(np.float32)

    def solved(
        self, components: _Components, overlap: float = OVERLAP, dtype: npt.DTypeLike = np.float32
    ) -> _Solved:
        """What the components amount to; in float32 the largest product takes half the time."""
        reduce, depth = components
        rank, (_, channels, taps) = len(reduce), self.weight.shape
        encoder = (reduce[:, :, None] * depth[:, None, :]).reshape(rank, -1)
        covariance = self._narrow if dtype == np.float32 else self.covariance
        seen = (encoder.astype(dtype) @ covariance).astype(np.float64)
        inner, cross = seen @ encoder.T, encoder @ self.cross.T
        inner[np.diag_indices(rank)] *= 1 + overlap
        lower = cholesky((inner + inner.T) / 2)
        half = solve_lower(lower, cross)
        expand = solve_lower(lower.T[::-1, ::-1], half[::-1])[::-1].T
        scale = self.variance or 1.0
        along = (expand.T @ self.cross - (expand.T @ expand) @ seen).reshape(rank, channels, taps)
        along *= -2 / scale
        gradient = _Components(
            np.matmul(along, depth[:, :, None])[:, :, 0], np.matmul(reduce[:, None, :], along)[:, 0, :]
        )
        return _Solved(max(0.0, 1 - float(np.sum(half**2)) / scale), np.ascontiguousarray(expand), gradient)

    def balanced(self, components: _Components) -> _Components:
        """The same with norms of what each carries: then the error is about as curved along all numbers."""
        reduce, depth = components
        scales = row_norms(reduce), row_norms(depth)
        strength = np.linalg.norm(self.solved(components).expand, axis=0) * scales[0] * scales[1]
        strength = np.maximum(strength / (float(strength.max()) or 1.0), WEAK)
        return _Components(*(x * (strength / n)[:, None] for x, n in zip(components, scales, strict=True)))

    def pruned(self, components: _Components, rank: int) -> _Components:
        """Without the components that the output misses least when the others make up for them."""
        reduce, depth = components
        while len(reduce) > rank:
            encoder = (reduce[:, :, None] * depth[:, None, :]).reshape(len(reduce), -1)
            inner = encoder @ self.covariance @ encoder.T
            inner[np.diag_indices(len(inner))] *= 1 + OVERLAP
            inverse = np.linalg.inv(inner)
            expand = inverse @ (encoder @ self.cross.T)
            missed = np.sum(expand**2, axis=1) / np.diag(inverse)
            dropped = min(len(reduce) - rank, max(1, len(reduce) // AT_ONCE))
            kept = np.sort(np.argsort(-missed, kind="stable")[: len(reduce) - dropped])
            reduce, depth = reduce[kept], depth[kept]
        return _Components(reduce, depth)
