"""Keep the hidden channels that a layer needs most, and let the layer make up for the others, under a budget.

What
    Between two dense operators stand operators on each channel alone (activations, depthwise convolutions,
    poolings). Some of the channels between go, with all that makes them, and the second operator is fitted
    anew to those that stay.

        x ─ 1x1 (80→480) ─ depthwise 5x5 (480) ─ 1x1 (480→80) ─ y
        x ─ 1x1 (80→312) ─ depthwise 5x5 (312) ─ 1x1 (312→80) ─ y

Maths
    z, what the second operator reads, with covariance S, and B its kernel. Dropping the channels D and
    refitting the rest adds trace(B_D ((S⁻¹)_DD)⁻¹ B_Dᵀ) to the error: the cheapest go first. What stays is a
    least-squares fit, B_K = (B S)_K (S_KK)⁻¹, with the mean of what is lost in the bias. Where patches are
    few S is drawn towards equal variances, so that a channel that seldom fires is not free.

When it applies
    1. Both operators are dense, without groups, with constant weights.
    2. What stands between works on each channel alone and is read by nothing else.

Exactness
    Approximate: fitted to the budget's calibration inputs, and measured on held-out ones.

Cost
    All operators of the unit get cheaper in proportion to the channels that stay, whose number is a multiple
    of what kernels compute at once. It stays dense: no operator is added.

References:
    Hassibi and Stork 1993, "Second order derivatives for network pruning: optimal brain surgeon".
    He et al. 2017, "Channel pruning for accelerating very deep neural networks".
    Luo et al. 2017, "ThiNet: a filter level pruning method for deep neural network compression".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.numerics.lowrank import channel_selection
from graphopt.numerics.lowrank.moments import Moments, rooted
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.factoring import fitted
from graphopt.rewrites.factoring.fitted import GroupFit, Split
from graphopt.rewrites.patterns import fits
from graphopt.rewrites.patterns.channel_roles import Flat, Lin, Own, Roles
from graphopt.rewrites.patterns.common import site
from graphopt.types import Array, Candidate, Choice, Cost, Float64, Rejection, Replacement

BLOCK = 8
"""Channels stay in multiples of this. Derived: kernels compute so many at once with AVX2, and twice as many
with AVX-512, which plans by time ask for."""
MOST = 24
"""Numbers of channels that are offered, about: derived, steps of a twenty-fourth of them, half of what
`fitted.RANK_STEPS` takes of a side, since a unit gets cheaper by that on both."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that reads some channels alone: what a group's factors are of other forms."""

    weight: Float64

    def mixed(self, matrix: Float64) -> Kernel:
        """The same with outputs that are a matrix times these."""
        return Kernel(rooted(matrix, self.weight))


@dataclass(frozen=True)
class Unit:
    """What makes the channels that a layer reads.

    Attributes:
        nodes: the operators, of which each has these channels; the layer is not among them.
        cost: of all, with the layer.
        fixed: parameters that stay whatever channels go: the layer's bias, and numbers that all share.
    """

    nodes: tuple[ir.Node, ...]
    cost: Cost
    fixed: int = 0

    def narrowed(self, part: float) -> Cost:
        """What it costs with a part of the channels."""
        cost, itemsize = self.cost, self.cost.weight_bytes // max(1, self.cost.params)
        params = int((cost.params - self.fixed) * part) + self.fixed
        return Cost(
            None if cost.macs is None else int(cost.macs * part),
            params,
            params * itemsize,
            int(cost.activation_bytes * part),
            cost.seconds * part,
        )


@dataclass(frozen=True)
class SelectChannels(Split):
    """Keeps the hidden channels that matter most between two dense operators, under a budget."""

    name: ClassVar[str] = "select_channels"

    keep: int | None = None
    """Channels that stay; the plan chooses where it is not given."""
    min_channels: int = 16
    """Units with fewer channels are left alone."""

    def ranks(self, choice: Choice) -> list[int]:
        """The channels that stay."""
        return [int(choice["keep"])]

    def operators(self, choice: Choice) -> int:
        """None more than before."""
        return 0

    def describe(self, choice: Choice) -> str:
        """The channels that stay."""
        return f"{choice['keep']} channels"

    def finish(self) -> Iterable[str]:
        """What takes the channels away that nothing reads any more."""
        return ("prune_channels",)

    def takes(self, linear: Linear) -> bool:
        """Every dense operator."""
        return linear.group == 1

    def fewest(self, inside: int, out: int) -> int:
        """Those that the layer reads."""
        return inside

    def choices(self, linear: Linear) -> list[Choice]:
        """Multiples of a block, the most first."""
        channels = linear.in_channels or 0
        if self.keep:
            return [{"keep": self.keep}] if self.keep < channels else []
        step = BLOCK * max(1, channels // (BLOCK * MOST))
        return [{"keep": n} for n in range((channels - 1) // step * step, 0, -step)]

    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """What the layer alone costs: its unit, which `match` tells, costs more."""
        macs = None if linear.macs is None else linear.macs * int(choice["keep"]) // (linear.in_channels or 1)
        return Cost(macs, linear.params)

    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each number of channels."""
        least = min(int(choice["keep"]) for choice in choices)
        found = channel_selection.eliminated(kernel, moments, least)
        return [found.errors[kernel.shape[1] - int(choice["keep"])] for choice in choices]

    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """The kernel that reads the channels that matter most."""
        keep = int(choice["keep"])
        kept = channel_selection.eliminated(kernel, moments, keep).kept(keep)
        found = channel_selection.refitted(kernel, moments, kept)
        return GroupFit(Kernel(found), found)

    def blank(self, kernel: Array, choice: Choice) -> Kernel:
        """A kernel of that shape, with zeros for the last channels."""
        found = fitted.noise(*kernel.shape)
        found[:, int(choice["keep"]) :] = 0
        return Kernel(found)

    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """None: channels have no order of their own."""
        return {}

    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Kernel], bias: Array) -> Replacement:
        """The layer with zeros for the channels that go: `finish` takes them away."""
        builder = Builder(linear.dtype)
        y = builder.linear(linear.form, linear.x, parts[0].weight, bias, rank=linear.rank)
        return builder.replacement({linear.y: y})

    # ------------------------------------------------------------ sites

    def refusal(self, analysis: Analysis, linear: Linear) -> str:
        """Why an operator is not fitted to fewer channels; "" when it can be."""
        reason = super().refusal(analysis, linear)
        if reason or analysis.statistics is None or linear.name in analysis.statistics:
            return reason
        return "nothing is known of what it reads, so that nothing can make up for channels"

    def inputs_needed(self, analysis: Analysis) -> Iterator[Linear]:
        """The second operators of units."""
        units = analysis.cached(units_of)
        yield from (each for each in super().inputs_needed(analysis) if each.node in units)

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """For each unit a candidate for every number of channels that saves MACs."""
        yield from self._offers(analysis, measured=True)

    def priced(self, analysis: Analysis) -> Iterator[Candidate]:
        """The same, errors unknown."""
        yield from (o for o in self._offers(analysis, measured=False) if isinstance(o, Candidate))

    def _offers(self, analysis: Analysis, *, measured: bool) -> Iterator[Candidate | Rejection]:
        units = analysis.cached(units_of)
        linears = [linear for linear in analysis.linears if self.takes(linear) and linear.node in units]
        choices = [self.choices(linear) if not self.refusal(analysis, linear) else [] for linear in linears]

        def errors(linear: Linear, offered: list[Choice]) -> list[float]:
            if not (offered and measured):
                return [math.nan] * len(offered)
            return self._errors(analysis, linear, offered)

        with ThreadPoolExecutor(fitted.THREADS) as pool:
            every = pool.map(errors, linears, choices)
            for linear, offered, found in zip(linears, choices, every, strict=True):
                unit, place = units[linear.node], site(analysis, [linear.node])
                beside = tuple(analysis.name(node) for node in unit.nodes)
                for choice, error in zip(offered, found, strict=True):
                    part = int(choice["keep"]) / (linear.in_channels or 1)
                    after = unit.narrowed(part)
                    yield Candidate(self.name, place, unit.cost, after, error, choice, beside=beside)
                if not offered:
                    reason = self.refusal(analysis, linear) or "it has too few channels for a block to go"
                    yield Rejection(self.name, place, f"{linear.name}: {reason}")


def units_of(analysis: Analysis) -> dict[ir.Node, Unit]:
    """The units of a snapshot, by their second operator."""
    roles = Roles(analysis)
    found = {}
    for linear in analysis.linears:
        nodes = _behind(analysis, roles, linear) if linear.group == 1 else None
        if nodes is not None and not any(_shares(analysis, node) for node in (*nodes, linear.node)):
            fixed = linear.bias_elements + sum(_numbers(analysis, node) for node in nodes)
            found[linear.node] = Unit(tuple(nodes), analysis.cost([*nodes, linear.node]), fixed)
    return found


def _shares(analysis: Analysis, node: ir.Node) -> bool:
    """Whether others read the weights of an operator, which then stay besides."""
    linear = analysis.linear(node)
    return linear is not None and fits.shared(analysis, linear)


def _numbers(analysis: Analysis, node: ir.Node) -> int:
    """Parameters of an operator on each channel alone that are single numbers."""
    if analysis.linear(node) is not None:
        return 0
    sizes = (analysis.constants.size(value) for value in node.inputs if value is not None)
    return sum(1 for size in sizes if size == 1)


def _behind(analysis: Analysis, roles: Roles, linear: Linear) -> list[ir.Node] | None:
    """What makes the channels that a layer reads; None where not all of it can be made with fewer."""
    role, x = roles.get(linear.node), linear.node.inputs[0]
    if not isinstance(role, Lin) or x is None:
        return None
    inside: dict[ir.Node, None] = {}
    sources: dict[ir.Node, None] = {}
    values, stack = {x}, [x]
    while stack:
        value = stack.pop()
        node = value.producer()
        made = None if node is None else roles.get(node)
        if node is None or made is None or value in roles.whole:
            return None
        if isinstance(made, Lin) and made.linear.group == 1:
            sources[node] = None
            continue
        read = _channelwise(node, made)
        if read is None:
            return None
        inside[node] = None
        new = [each for each in read if each not in values]
        values.update(new)
        stack += new
    known = {*inside, *sources, linear.node}
    others = (use.node for value in values for use in value.uses() if use.node not in known)
    if not sources or next(others, None) is not None or linear.node in sources:
        return None
    if any(use.node is linear.node and use.idx for value in values for use in value.uses()):
        return None
    return [*sources, *inside]


def _channelwise(node: ir.Node, role: object) -> list[ir.Value] | None:
    """The maps that an operator reads of which each has the channels that it makes; None for another one."""
    x = node.inputs[0]
    if isinstance(role, Own):
        return [value for _, value in role.maps(node)]
    if isinstance(role, Lin) and role.linear.depthwise and role.linear.out_channels == role.linear.group:
        return None if x is None else [x]
    if isinstance(role, Flat) and role.factor == 1:
        return None if x is None else [x]
    return None
