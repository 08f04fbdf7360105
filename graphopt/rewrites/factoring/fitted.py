"""What the approximate rewrites share: their sites, their options, and the fit of each group."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from graphopt.analysis import time_model
from graphopt.analysis.input_statistics import counted, known
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank.moments import Moments, Statistics, rooted, unrooted
from graphopt.rewrites.base import ApproximateRewrite
from graphopt.rewrites.factoring import factored
from graphopt.rewrites.patterns import fits
from graphopt.rewrites.patterns.common import site
from graphopt.types import Array, Candidate, Choice, Cost, Fitted, Float64, Rejection, Replacement

RANK_STEPS = 16
"""Ranks a side from which a plan chooses, at least: the sixteenths of the channels. Measured by
benchmarks.thresholds: with 8, 16 and 32 a network kept 33.4, 33.9 and 34.1 dB, four seeds alone give 33.5 to
34.5."""
BLOCK = time_model.BLOCK
"""Multiples of this are offered besides: kernels compute whole blocks of channels."""
MOST_BLOCKS = 16
"""So many of them at the most: derived, as many as `RANK_STEPS`; steps are then the channels' sixteenths."""
THREADS = 2
"""Operators whose errors are predicted at once; no result depends on it."""
LONG = 7
"""Taps on an axis from which a kernel is split however few its channels. Derived: the three channels of an
image have 7 · 3 = 21 ranks then, over `RANK_STEPS`, and 15 with five taps, under it."""


class GroupFit(NamedTuple):
    """The factors of one group, and the kernel ``[o, c, *taps]`` that they amount to."""

    factors: Any
    kernel: Float64

    def mixed(self, matrix: Float64) -> GroupFit:
        """The same with outputs that are a matrix ``[o, o]`` times these."""
        return GroupFit(self.factors.mixed(matrix), rooted(matrix, self.kernel))


class Split(ApproximateRewrite):
    """An approximate way to split a linear operator: a rewrite, by what is its own.

    A subclass is a frozen dataclass whose fields are the rewrite's options.
    """

    min_channels: int

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            ValueError: one is not positive.
        """
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"expected {name} of at least 1")

    @property
    def fixed(self) -> bool:
        """Whether the user chose a rank or multiplier."""
        return any(value is not None for name, value in vars(self).items() if name != "min_channels")

    def ranks(self, choice: Choice) -> list[int]:
        """Those of the sides that are cut; a multiplier is none."""
        return [int(value) for key, value in choice.items() if key.startswith("rank") and value]

    # ------------------------------------------------------------ what differs from one way to the next

    def takes(self, linear: Linear) -> bool:
        """Whether the operator is of the kind that is split: by default one of more than one tap."""
        return not linear.pointwise

    def fewest(self, inside: int, out: int) -> int:
        """The channels of a group that `min_channels` speaks of: by default those of the narrower side."""
        return min(inside, out)

    @abstractmethod
    def choices(self, linear: Linear) -> list[Choice]:
        """The ways of splitting it, dear ones too."""

    @abstractmethod
    def cost(self, linear: Linear, choice: Choice) -> Cost:
        """What a way costs."""

    @abstractmethod
    def errors(self, kernel: Array, moments: Moments, choices: Sequence[Choice]) -> list[float]:
        """The predicted relative error of each way for one group.

        Args:
            kernel: ``[out, in, *taps]`` of one group.
            moments: of the group's patches.
            choices: the ways.

        Returns:
            E‖y − ŷ‖² / Var(y) for each, in their order.
        """

    @abstractmethod
    def fit_group(self, kernel: Array, moments: Moments, choice: Choice, refine: int) -> GroupFit:
        """The factors of one group.

        Args:
            kernel: ``[out, in, *taps]`` of one group.
            moments: of the group's patches.
            choice: the way.
            refine: rounds of alternation; 0 for a quick fit.

        Returns:
            The factors, and the kernel that they amount to.
        """

    @abstractmethod
    def blank(self, kernel: Array, choice: Choice) -> Any:
        """Factors of the right shapes for one group, of whatever content: what they cost can be timed."""

    @abstractmethod
    def spectra(self, kernel: Array, moments: Moments, choice: Choice) -> dict[str, tuple[float, ...]]:
        """By rank of the choice the part of the output that each direction carries, for one group.

        Args:
            kernel: ``[out, in, *taps]`` of one group.
            moments: of the group's patches.
            choice: the way.

        Returns:
            Parts of 1, descending, by rank of the choice.
        """

    @abstractmethod
    def assemble(self, linear: Linear, choice: Choice, parts: Sequence[Any], bias: Array) -> Replacement:
        """The nodes, from the factors of all groups.

        Args:
            linear: the operator.
            choice: the way.
            parts: the factors of each group.
            bias: ``[out_channels]``.

        Returns:
            The nodes, under the operator's name.
        """

    # ------------------------------------------------------------ the rewrite

    def refusal(self, analysis: Analysis, linear: Linear) -> str:
        """Why an operator is not split, whatever the ranks; "" when it can be."""
        reason = factored.refusal(linear) or factored.needs_positions(analysis, linear)
        if reason:
            return reason
        inside, out = ((n or 0) // linear.group for n in (linear.in_channels, linear.out_channels))
        if self.fewest(inside, out) < self.min_channels and max(linear.kernel, default=1) < LONG:
            return f"{inside}→{out} channels are fewer than {self.min_channels}, too few to reduce"
        if wide := fits.too_wide(linear):
            return wide
        seen = (analysis.statistics or {}).get(linear.name)
        if seen is not None and not all(math.isfinite(np.trace(each.covariance)) for each in seen.groups):
            return "on some inputs it reads numbers that are too large, or not finite"
        if seen is not None and not seen.count:
            return "it reads rows that depend on content, and the inputs to fit on give it none"
        neighbour = _bottleneck(analysis, linear)
        if neighbour:
            return f"it is part of a bottleneck already: nothing stands between it and {neighbour}"
        return ""

    def inputs_needed(self, analysis: Analysis) -> Iterator[Linear]:
        """The operators that are split."""
        yield from (
            each for each in analysis.linears if self.takes(each) and not self.refusal(analysis, each)
        )

    def match(self, analysis: Analysis) -> Iterator[Candidate | Rejection]:
        """For each operator a candidate for every way of splitting it that no other way beats."""
        linears = [linear for linear in analysis.linears if self.takes(linear)]
        reasons = [self.refusal(analysis, linear) for linear in linears]

        def options(linear: Linear, reason: str) -> list[tuple[Choice, Cost, float]]:
            return [] if reason else self._options(analysis, linear)

        with ThreadPoolExecutor(THREADS) as pool:
            every = pool.map(options, linears, reasons)
            for linear, reason, found in zip(linears, reasons, every, strict=True):
                place, before = site(analysis, [linear.node]), analysis.own_cost(linear)
                for choice, after, error in found:
                    yield Candidate(self.name, place, before, after, error, choice)
                if not found:
                    yield Rejection(self.name, place, f"{linear.name}: {reason or 'no such ranks save MACs'}")

    def priced(self, analysis: Analysis) -> Iterator[Candidate]:
        """For each operator every way of splitting it that saves MACs, errors unknown."""
        for linear in self.inputs_needed(analysis):
            before, place = analysis.own_cost(linear), site(analysis, [linear.node])
            for choice, after in self._saving(linear):
                yield Candidate(self.name, place, before, after, math.nan, choice)

    def fit(
        self,
        analysis: Analysis,
        candidate: Candidate,
        statistics: Mapping[str, Statistics] | None = None,
        *,
        refine: int = 2,
    ) -> Fitted:
        """The candidate's factors fitted to statistics, each group alone; a quick fit has no spectra."""
        linear = anchor(analysis, candidate)
        choice = candidate.choice
        given = known(linear, analysis.statistics if statistics is None else statistics)
        weights = algebra.blocks(linear.weight(), linear.group)
        kernels = counted(given.kernels or weights, given.weighting)
        parts = [
            self.fit_group(kernel, moments, choice, refine)
            for kernel, moments in zip(kernels, given.groups, strict=True)
        ]
        if given.weighting:
            parts = [part.mixed(unrooted(root)) for root, part in zip(given.weighting, parts, strict=True)]
        found = [part.kernel for part in parts]
        bias, error = fits.bias_and_error(linear, given, found)
        replacement = self.assemble(linear, choice, [part.factors for part in parts], bias)
        spectra = self.spectra(kernels[0], given.groups[0], choice) if refine else {}
        return Fitted(replacement, np.concatenate(found), bias, error, spectra)

    def draft(self, linear: Linear, candidate: Candidate) -> Replacement | None:
        """What a way of splitting an operator looks like, with weights that mean nothing."""
        kernels, choice = algebra.blocks(linear.weight(), linear.group), candidate.choice
        bias = np.ones(linear.out_channels or 1)
        return self.assemble(linear, choice, [self.blank(kernel, choice) for kernel in kernels], bias)

    def _options(self, analysis: Analysis, linear: Linear) -> list[tuple[Choice, Cost, float]]:
        """The ways that save MACs, and that no other beats in error and MACs, or in error and time."""
        saving = self._saving(linear)
        if not saving:
            return []
        found = self._errors(analysis, linear, [choice for choice, _ in saving])
        options = [(choice, cost, error) for (choice, cost), error in zip(saving, found, strict=True)]
        kept = {id(o) for key in (_by_macs, _by_time) for o in _front(options, key)}
        return [option for option in options if id(option) in kept]

    def _saving(self, linear: Linear) -> list[tuple[Choice, Cost]]:
        """The ways that save MACs, with what they cost."""
        every = [(choice, self.cost(linear, choice)) for choice in self.choices(linear)]
        return [(choice, cost) for choice, cost in every if (cost.macs or 0) < (linear.macs or 0)]

    def _errors(self, analysis: Analysis, linear: Linear, choices: Sequence[Choice]) -> list[float]:
        """The relative error of each way, over all groups."""
        statistics = known(linear, analysis.statistics)
        kernels = counted(algebra.blocks(linear.weight(), linear.group), statistics.weighting)
        lost, total = np.zeros(len(choices)), 0.0
        for kernel, moments in zip(kernels, statistics.groups, strict=True):
            flat = kernel.reshape(len(kernel), -1)
            variance = float(np.sum((flat @ moments.covariance) * flat))
            lost += variance * np.array(self.errors(kernel, moments, choices))
            total += variance
        return [float(part) for part in lost / (total or 1.0)]


def _bottleneck(analysis: Analysis, linear: Linear) -> str:
    """The linear operator that directly feeds this one or reads it, through fewer channels; "" when none."""
    x, y = linear.node.inputs[0], linear.node.outputs[0]
    before = analysis.linear(x.producer()) if x is not None else None
    after = analysis.linear(analysis.sole_consumer(y))
    for near, width, other in (
        (before, linear.in_channels, None if before is None else before.in_channels),
        (after, linear.out_channels, None if after is None else after.out_channels),
    ):
        if (
            near is not None
            and (width or 0) < (other or 0)
            and near.node.inputs[0] is not near.node.inputs[1]
        ):
            return near.name
    return ""


def _by_macs(option: tuple[Choice, Cost, float]) -> float:
    return option[1].macs or 0


def _by_time(option: tuple[Choice, Cost, float]) -> float:
    return option[1].seconds


def _front(
    options: Sequence[tuple[Choice, Cost, float]], key: Callable[[tuple[Choice, Cost, float]], float]
) -> Iterator[tuple[Choice, Cost, float]]:
    """Those with less error than every cheaper one."""
    best = math.inf
    for option in sorted(options, key=lambda o: (key(o), o[2])):
        if option[2] < best:
            best = option[2]
            yield option


def noise(*shape: int) -> Float64:
    """Weights that mean nothing, and that no processor is slow with."""
    return np.random.default_rng(0).normal(0.0, 0.05, shape)


def grid(channels: int) -> list[int]:
    """Ranks below a number of channels from which a plan chooses, ascending."""
    step = max(1, channels // RANK_STEPS)
    block = BLOCK * max(1, math.ceil(channels / (BLOCK * MOST_BLOCKS)))
    return sorted({*range(step, channels, step), *range(block, channels, block)})
