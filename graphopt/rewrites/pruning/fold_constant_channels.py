"""Fold constant channels that meet zero padding into a map with border zones behind the convolution.

What
    A padded convolution reads channels that are constant: filters of zeros leave their bias, a γ of 0 its β.
    It is made to read the others alone, and what the constant ones add becomes a constant map. What makes
    them is then read by nobody, and `prune_channels` removes it.

        x ─ Conv (64→64, 16 filters 0) ─ Relu ─ 3x3, pads 1 ─ y

        x ─ Conv (64→64, 16 filters 0) ─ Relu ─ Gather (48) ─ 3x3 (48→64), pads 1 ─ Add (map) ─ y

Maths
    Σᵢ Wᵢ ∗ xᵢ = Σ over the others Wᵢ ∗ xᵢ + Σ over the constant ones Wᵢ ∗ cᵢ. The last sum is the same
    wherever all taps land, and another at the border, where some read zeros: one number an output channel
    and border zone, as in `collapse`.

When it applies
    1. Conv or ConvTranspose with constant weights, one group, and zero padding. Without padding
       `prune_channels` needs no map.
    2. The spatial sizes hold for every run.
    3. No affine operator that would fold into the convolution first stands behind it.

Exactness
    Exact. The map is made in float64 and rounded once.

Cost
    MACs fall with the input channels; an Add over the output comes, and a selection of the others until
    `prune_channels` has removed the constant ones.

References:
    None; the border zones are those of `numerics.kernels.borders`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels.borders import ZonedMap
from graphopt.rewrites.base import ExactRewrite, Stage
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns import chains, composition
from graphopt.rewrites.patterns.border_map import add_map
from graphopt.rewrites.patterns.channel_roles import Lin
from graphopt.rewrites.patterns.common import site
from graphopt.rewrites.pruning.liveness import Liveness, witnesses
from graphopt.types import Candidate, Rejection, Replacement


@dataclass(frozen=True)
class FoldConstantChannels(ExactRewrite):
    """Folds constant channels that meet zero padding into a constant map."""

    name: ClassVar[str] = "fold_constant_channels"
    stage: ClassVar[Stage] = Stage.WEIGHTS

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """A candidate for each padded convolution that reads constant channels."""
        for linear in analysis.linears:
            constants = _constants(analysis, linear)
            if constants is None:
                continue
            shape, others = linear.input_shape, int(np.isnan(constants).sum())
            place = site(analysis, [linear.node, *witnesses(analysis.cached(Liveness), [linear.node])])
            reason = _refusal(analysis, linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
                continue
            weight = (linear.out_channels or 0, others, *linear.kernel)
            after = linear_cost(linear.form, weight, shape, linear.itemsize)
            for passed in (linear.output_shape, shape and (shape[0], others, *shape[2:])):  # Add, Gather
                after += chains.pass_over(passed, linear.itemsize)
            yield Candidate(self.name, place, analysis.linear_cost(linear), after)

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolution of the other channels, and the map of the constant ones."""
        linear = anchor(analysis, candidate)
        constants = _constants(analysis, linear)
        sizes = chains.fixed_sizes(analysis.fixed_shape(linear.node.inputs[0]))
        assert constants is not None and sizes is not None
        others = np.flatnonzero(np.isnan(constants))
        builder = Builder(linear.dtype)
        selected = builder.node(
            "Gather", [linear.x, builder.constant(others, "channels")], {"axis": 1}, "/channels"
        )
        whole = composition.operator(linear)
        weight = linear.weight()[:, others]
        y = builder.linear(linear.form, selected, weight, None, rank=linear.rank)
        known = ZonedMap.uniform_map(np.nan_to_num(constants, nan=0.0), sizes)
        y = add_map(builder, y, composition.through(known, whole))
        return builder.replacement({linear.y: y})


def _constants(analysis: Analysis, linear: Linear) -> npt.NDArray[np.float64] | None:
    """The constants of the input channels, NaN for the others; None where the operator is not meant."""
    role, x = analysis.cached(Liveness).roles.get(linear.node), linear.node.inputs[0]
    if not isinstance(role, Lin) or not role.padded or linear.group != 1 or x is None:
        return None
    constants = analysis.cached(Liveness).known(x).constant
    useful = np.nan_to_num(constants, nan=0.0) != 0
    return constants if useful.any() and np.isnan(constants).any() else None


def _refusal(analysis: Analysis, linear: Linear) -> str:
    """Why the channels stay; "" when they don't."""
    if chains.fixed_sizes(analysis.fixed_shape(linear.node.inputs[0])) is None:
        return "constant channels meet its zero padding, and the spatial sizes are open"
    if linear.macs is None:
        return "its sizes are unknown"
    stage = chains.Stage(linear, (linear.node,), linear.node.outputs[0])
    affine = chains.affine_behind(analysis, stage)
    return f"{affine} folds into it first, which a border map would keep it from" if affine else ""
