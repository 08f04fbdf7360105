"""Insert a 1x1 convolution and an activation that change nothing yet, to train a wider network from there.

What
    Behind the chosen convolutions come a 1x1 convolution and an activation, set so that the function of the
    network is the same at that moment. Training can then use the layer: the network in network of Lin et al.

        x ─ 3x3 ─ y        x ─ 3x3 ─ 1x1 (identity) ─ PRelu (slope 1) ─ y
                           x ─ 3x3 ─ 1x1 (identity, b) ─ Relu ─ Add(−b) ─ y

Maths
    ``prelu`` with slope 1 and ``leaky_relu`` with alpha 1 are the identity. ``relu`` is the identity on what
    is not negative: the 1x1 adds b ≥ −min y for each channel, over the calibration inputs and with a margin
    of 10 % of the range, and an Add takes it away behind the Relu. With ``mix`` the 1x1 is a random
    orthogonal matrix Q, and the convolution in front becomes QᵀW, Qᵀb: Q Qᵀ = 1.

When it applies
    1. On request only: ``only`` names it, and it alone, ``at`` the operators, and there is no budget.
    2. To Conv and ConvTranspose; ``mix`` needs constant weights and one group.
    3. ``relu`` needs calibration inputs.

Exactness
    Expanding: equal when it is inserted, and dearer. With ``relu`` equal on the calibration inputs, and on
    others as far as they stay in the calibrated range and its margin.

Cost
    The MACs rise by out_channels² for each output pixel of a chosen convolution.

References:
    Lin, Chen and Yan 2014, "Network in network".
    Chen, Goodfellow and Shlens 2016, "Net2Net", for growing a network without changing its function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.linear import Linear, linear_cost
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.errors import Named
from graphopt.rewrites.base import ExpandingRewrite
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.common import site
from graphopt.types import Array, Candidate, Cost, Rejection, Replacement

ACTIVATIONS = ("prelu", "leaky_relu", "relu")
MARGIN = 0.1
"""Part of a channel's range by which the kink of a Relu lies below the calibrated range. Measured by
benchmarks.thresholds: with 0, 0.01 and 0.1 of the range of 32 inputs 9.5, 5.0 and 0.2 % of 400 other inputs
meet a kink; of the range of 400 none do."""


@dataclass(frozen=True)
class InsertPointwise(ExpandingRewrite):
    """Inserts a 1x1 convolution and an activation that change nothing yet."""

    name: ClassVar[str] = "insert_pointwise"

    activation: str = "prelu"
    """What follows the 1x1: prelu, leaky_relu or relu."""
    mix: bool = False
    """Start from a random orthogonal matrix that is undone in front, instead of from the identity."""
    seed: int = 0
    """Of that matrix."""

    @property
    def condition(self) -> str:
        """What the equality depends on; "" when on nothing."""
        return "on the calibration inputs" if self.activation == "relu" else ""

    def why_not(self, *, calibrated: bool) -> str:
        """Why the options can't be used; "" when they can."""
        if self.activation not in ACTIVATIONS:
            return f"{self.name}.activation={self.activation}: expected {', '.join(ACTIVATIONS)}"
        if self.activation == "relu" and not calibrated:
            return f"{self.name}.activation=relu needs calibration inputs: give {Named('calibration')}"
        return ""

    def outputs_needed(self, analysis: Analysis) -> list[Linear]:
        """The operators of whose outputs `build` needs the lowest values."""
        return [linear for linear in analysis.linears if self.activation == "relu" and linear.kernel]

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """One candidate for each convolution."""
        for linear in analysis.linears:
            if not linear.kernel:
                continue
            place = site(analysis, [linear.node])
            reason = self._reason(analysis, linear)
            if reason:
                yield Rejection(self.name, place, f"{linear.name}: {reason}")
                continue
            assert linear.out_channels is not None
            ones = (1,) * len(linear.kernel)
            weights = (linear.out_channels, linear.out_channels, *ones)
            before = analysis.linear_cost(linear)
            biased = self.activation == "relu"
            added = linear_cost(
                linear.form.pointwise(), weights, linear.output_shape, linear.itemsize, biased
            )
            extra = 0 if self.activation == "leaky_relu" else linear.out_channels
            activation = Cost(0, extra, extra * linear.itemsize, added.activation_bytes)
            yield Candidate(self.name, place, before, before + added + activation)

    def _reason(self, analysis: Analysis, linear: Linear) -> str:
        if linear.blocked or linear.out_channels is None or linear.output_shape is None:
            return linear.blocked or "its size is unknown"
        if self.activation == "relu" and linear.name not in (analysis.extremes or {}):
            return "no calibration input tells the range of its output"
        if not self.mix:
            return ""
        return linear.obstacle or (
            f"it has {linear.group} groups, which mix would join" if linear.group > 1 else ""
        )

    def build(self, analysis: Analysis, candidate: Candidate) -> Replacement:
        """The convolution, the 1x1, the activation, and what undoes a shift."""
        linear = anchor(analysis, candidate)
        assert linear.out_channels is not None
        builder, channels, ones = Builder(linear.dtype), linear.out_channels, (1,) * len(linear.kernel)
        matrix: Array = np.eye(channels)
        if self.mix:
            matrix = _orthogonal(channels, self.seed)
            weight, bias = linear.weight(), linear.bias()
            mixed = None if bias is None else matrix.T @ bias
            y = builder.linear(linear.form, linear.x, np.tensordot(matrix.T, weight, 1), mixed)
        else:
            y = builder.again(linear)
        shift = self._shift(analysis, linear)
        point = linear.form.pointwise()
        y = builder.linear(point, y, matrix.reshape(channels, channels, *ones), shift, name="/pointwise")
        if self.activation == "prelu":
            slope = builder.constant(np.ones((channels, *ones)), "slope")
            y = builder.node("PRelu", [y, slope], {}, "/activation")
        elif self.activation == "leaky_relu":
            y = builder.node("LeakyRelu", [y], {"alpha": 1.0}, "/activation")
        else:
            y = builder.node("Relu", [y], {}, "/activation")
        if shift is not None:
            y = builder.node("Add", [y, builder.constant(-shift.reshape(-1, *ones), "shift")], {}, "/shift")
        return builder.replacement({linear.y: y})

    def _shift(self, analysis: Analysis, linear: Linear) -> Array | None:
        """What lifts every channel above zero, [out]; None where nothing has to."""
        if self.activation != "relu" or analysis.extremes is None:
            return None
        low, high = analysis.extremes[linear.name]
        return np.maximum(MARGIN * (high - low) - low, 0.0)


def _orthogonal(size: int, seed: int) -> Array:
    """A random orthogonal matrix (Stewart 1980): the Q of a Gaussian one, with the signs of R's diagonal."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))
