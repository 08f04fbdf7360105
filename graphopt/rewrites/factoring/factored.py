"""A linear operator as a chain of cheaper ones: costs, ranks and nodes for the rewrites that make one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from graphopt.analysis.linear import Form, Linear, linear_cost
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.kernels.algebra import blocks
from graphopt.numerics.lowrank import exact_factors as exact
from graphopt.numerics.lowrank import tucker
from graphopt.numerics.lowrank.balance import balanced
from graphopt.numerics.lowrank.tucker import Factors
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.patterns.fits import plain, unusable
from graphopt.rewrites.patterns.least_sizes import LeastSizes
from graphopt.types import Array, Candidate, Choice, Cost, Float64, Rejection, Replacement


def refusal(linear: Linear) -> str:
    """Why an operator can't be split into factors, whatever its rank; "" when it can."""
    if linear.obstacle:
        return linear.obstacle
    if linear.macs is None and not linear.depthwise:
        return "its size is unknown"
    if linear.input_shape is not None and len(linear.input_shape) < 2:
        return "it reads a vector, which has no axis along which samples could lie"
    return unmixed(linear) or unusable(linear)


def unmixed(linear: Linear) -> str:
    """Why the channels of an operator can't be reduced by a 1x1; "" when they can."""
    mixed = f"it is depthwise ({linear.group} groups): no channels are mixed that a 1x1 could reduce"
    return mixed if linear.depthwise else ""


def lossless_refusal(linear: Linear) -> str:
    """Why an operator can't be split without loss, whatever its rank; "" when it can."""
    if linear.obstacle:
        return linear.obstacle
    if linear.macs is None or linear.input_shape is None or None in linear.input_shape:
        return "its size is unknown"
    return unusable(linear)


class LosslessSplit(ExactRewrite):
    """A way to split a linear operator that loses nothing."""

    __slots__ = ()
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def takes(self, linear: Linear) -> bool:
        """Whether the operator is of the kind that is split: by default every one."""
        return True

    @abstractmethod
    def ways(self, linear: Linear) -> list[tuple[Choice, Cost]] | str:
        """The ways that pay, with what they cost; or why there is none."""

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each way that pays."""
        for linear in filter(self.takes, analysis.linears):
            place, before = site(analysis, [linear.node]), analysis.linear_cost(linear)
            ways = lossless_refusal(linear) or needs_positions(analysis, linear) or self.ways(linear)
            if isinstance(ways, str):
                yield Rejection(self.name, place, f"{linear.name}: {ways}")
            else:
                yield from (Candidate(self.name, place, before, cost, choice=way) for way, cost in ways)


def needs_positions(analysis: Analysis, linear: Linear) -> str:
    """Why factors may not run where the operator does; "" where they do.

    Of an empty map a ConvTranspose of several taps makes some pixels, and so does a Conv of as many pads; a
    single tap makes none, which onnxruntime refuses.
    """
    pads = linear.op == "ConvTranspose" or (linear.op == "Conv" and linear.form.padded)
    empty = pads and analysis.cached(LeastSizes).may_be_empty(linear.node.inputs[0])
    return "it may be fed a map without pixels, on which a kernel of one tap would not run" if empty else ""


def highest_rank(
    linear: Linear,
    unfolding: Hashable,
    matrices: Callable[[Array, Float64], Iterable[tuple[Array, Float64]]],
    pays: int,
) -> int | None:
    """The highest numerical rank of some matrices of each group; None as soon as one does not pay.

    Args:
        linear: the operator.
        unfolding: what tells these matrices from others of the kernel, so that none is looked at again.
        matrices: those of one group, from its balanced weights and the levels of their outputs, each with the
            levels of the outputs that its rows are of.
        pays: the largest rank at which the factors are cheaper.

    Returns:
        The rank, at least 1, or None.
    """
    if pays < 1:
        return None
    return linear.found_in_weight((unfolding, pays), lambda: _highest_rank(linear, matrices, pays))


def _highest_rank(
    linear: Linear, matrices: Callable[[Array, Float64], Iterable[tuple[Array, Float64]]], pays: int
) -> int | None:
    eps, highest = tucker.epsilon(linear.dtype), 1
    for block in blocks(plain(linear.stored_weight()), linear.group):
        stored = (matrix for matrix, _ in matrices(block, np.ones(len(block))))
        if any(exact.is_above(matrix, eps, min(pays, min(matrix.shape))) for matrix in stored):
            return None  # which is cheaper to tell than the rank
        whole = balanced(block)
        for matrix, levels in matrices(whole.kernel, whole.levels):
            rank = exact.find_rank(matrix, eps, min(pays, min(matrix.shape)), levels)
            if rank is None:
                return None
            highest = max(highest, rank)
    return highest


def described(choice: Choice) -> str:
    """How ``rank_in`` and ``rank_out`` read, 0 for a side that is not cut."""
    return f"1x1 {choice['rank_in'] or '–'}/{choice['rank_out'] or '–'}"


def cost(linear: Linear, rank_in: int | None, rank_out: int | None) -> Cost:
    """The cost of the factors; None leaves out that side's 1x1. Ranks are those of each group.

    The 1x1 in front runs at the input's resolution, the one behind at the output's. A Gemm or MatMul is cut
    on the input side only: there is no core between the two.

    Args:
        linear: the operator.
        rank_in: rank of the first 1x1.
        rank_out: rank of the last 1x1.

    Returns:
        Of all that are left together.
    """
    assert (
        linear.input_shape is not None and linear.in_channels is not None and linear.out_channels is not None
    )
    size, group = linear.dtype.itemsize, linear.group
    point, ones = _point(linear), (1,) * len(linear.kernel)
    inside, out = linear.in_channels // group, linear.out_channels // group
    r_in, r_out = rank_in or inside, rank_out or out
    biased = linear.bias_elements > 0
    core = (group * r_out, r_in, *linear.kernel)
    inner = _with_channels(linear, linear.input_shape, group * r_in)
    total = linear_cost(linear.form, core, inner, size, biased and not rank_out)
    if rank_in:
        total += linear_cost(point, (group * r_in, inside, *ones), linear.input_shape, size, False)
    if rank_out:
        sizes = tuple(s for s in linear.input_shape[2:] if s is not None)
        written = (linear.input_shape[0], group * r_out, *linear.form.output_sizes(sizes, linear.kernel))
        total += linear_cost(point, (linear.out_channels, r_out, *ones), written, size, biased)
    return total


def joined(parts: Sequence[Factors]) -> Factors:
    """The factors of all groups as grouped operators."""
    reduce = [part.reduce for part in parts if part.reduce is not None]
    expand = [part.expand for part in parts if part.expand is not None]
    return Factors(
        np.concatenate(reduce) if reduce else None,
        np.concatenate([part.core for part in parts]),
        np.concatenate(expand) if expand else None,
    )


def _with_channels(linear: Linear, shape: tuple[int | None, ...], channels: int) -> tuple[int | None, ...]:
    """The shape with other channels; those of a Gemm or MatMul are last."""
    return (shape[0], channels, *shape[2:]) if linear.kernel else (*shape[:-1], channels)


def _point(linear: Linear) -> Form:
    """The form of a factor without taps. A MatMul needs no bias in any opset, a Gemm did up to opset 10."""
    return replace(linear.form.pointwise(), group=linear.group) if linear.kernel else Form("MatMul")


def replacement(linear: Linear, factors: Factors, bias: Array | None) -> Replacement:
    """The factors as nodes: ``…/reduce`` (1x1), the k×k under the old name, ``…/expand`` (1x1).

    The bias goes onto the last of them: zero padding comes after the first.

    Args:
        linear: the operator.
        factors: those of all groups.
        bias: ``[out_channels]``; None for none.

    Returns:
        The nodes, under the operator's name.
    """
    builder = Builder(linear.dtype)
    point, ones = _point(linear), (1,) * len(linear.kernel)
    form = linear.form if linear.kernel else point
    y = linear.x
    if factors.reduce is not None:
        weight = factors.reduce.reshape(*factors.reduce.shape, *ones)
        y = builder.linear(point, y, weight, None, rank=linear.rank, name="/reduce")
    last = factors.expand is None
    y = builder.linear(form, y, factors.core, bias if last else None, rank=linear.rank)
    if factors.expand is not None:
        weight = factors.expand.reshape(*factors.expand.shape, *ones)
        y = builder.linear(point, y, weight, bias, name="/expand")
    return builder.replacement({linear.y: y})
