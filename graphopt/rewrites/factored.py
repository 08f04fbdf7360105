"""A k×k convolution as 1x1 → k×k → 1x1: its cost and its nodes, for the rewrites that make one."""

from __future__ import annotations

from graphopt.conv import Builder, Linear, linear_cost
from graphopt.core import Array, Cost, Replacement
from graphopt.lowrank import Factors


def refusal(linear: Linear) -> str:
    """Why a convolution can't be split into factors, whatever its rank; "" when it can."""
    if linear.obstacle:
        return linear.obstacle
    if linear.depthwise:
        return f"it is depthwise ({linear.group} groups): no channels are mixed that a 1x1 could reduce"
    if linear.group != 1:
        return f"it has {linear.group} groups"
    if linear.macs is None:
        return "its size is unknown"
    return ""


def cost(linear: Linear, rank_in: int | None, rank_out: int | None) -> Cost:
    """The cost of the factors; None leaves out that side's 1x1.

    The 1x1 in front runs at the input's resolution, the one behind at the output's.
    """
    assert (
        linear.input_shape is not None and linear.in_channels is not None and linear.out_channels is not None
    )
    size, batch, spatial = linear.dtype.itemsize, linear.input_shape[0], linear.input_shape[2:]
    point, ones = linear.form.pointwise(), (1,) * len(linear.kernel)
    r_in, r_out = rank_in or linear.in_channels, rank_out or linear.out_channels
    biased = linear.bias_elements > 0
    inner = (batch, r_in, *spatial)
    total = linear_cost(linear.form, (r_out, r_in, *linear.kernel), inner, size, biased and not rank_out)
    if rank_in:
        total += linear_cost(point, (r_in, linear.in_channels, *ones), linear.input_shape, size, False)
    if rank_out:
        sizes = tuple(s for s in spatial if s is not None)
        written = (batch, r_out, *linear.form.output_sizes(sizes, linear.kernel))
        total += linear_cost(point, (linear.out_channels, r_out, *ones), written, size, biased)
    return total


def replacement(linear: Linear, factors: Factors, bias: Array | None) -> Replacement:
    """The factors as nodes: ``…/reduce`` (1x1), the k×k under the old name, ``…/expand`` (1x1).

    The bias goes onto the last of them: zero padding comes after the first.
    """
    builder = Builder(linear.dtype)
    point, ones = linear.form.pointwise(), (1,) * len(linear.kernel)
    y = linear.x
    if factors.reduce is not None:
        weight = factors.reduce.reshape(*factors.reduce.shape, *ones)
        y = builder.linear(point, y, weight, None, name="/reduce")
    last = factors.expand is None
    y = builder.linear(linear.form, y, factors.core, bias if last else None)
    if factors.expand is not None:
        weight = factors.expand.reshape(*factors.expand.shape, *ones)
        y = builder.linear(point, y, weight, bias, name="/expand")
    return builder.replacement({linear.y: y})
