"""Fits the chosen layers once more, in the order of the network, to what the original makes.

Two networks run side by side: the original, and the one compressed so far. Each layer is fitted so that,
from the inputs that it really gets, it comes as near as it can to what the original makes of the original
inputs (asymmetric reconstruction; Zhang et al. 2016, "Accelerating very deep convolutional networks for
classification and detection", section 3.3). So errors do not pile up. Where the output only goes into a sum
whose other side is there already, what that side has lost is made up for as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt import progress
from graphopt.analysis.input_statistics import known
from graphopt.analysis.linear import Linear, operator
from graphopt.analysis.snapshot import Analysis, anchor
from graphopt.calibration import patches
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.calibration.statistics import FITTED_ROWS, positions
from graphopt.errors import SiteError
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank import shrinkage, tucker_fit
from graphopt.numerics.lowrank.moments import Joint, JointAccumulator, Moments, Statistics
from graphopt.runtime.program import Program
from graphopt.runtime.spill import Store
from graphopt.runtime.staged import StagedRun
from graphopt.types import Candidate, Fitted

ENOUGH, ENOUGH_INPUTS = 40, 128
"""Patches for each dimension of a covariance, and inputs, from which a fit takes the data at their word.
Measured by benchmarks.thresholds: with 10, 40 and 160 a network kept 33.9 dB each time."""
BATCHES = 4
"""Batches that the inputs are run in, at least, so that there are two halves to compare. Measured by
benchmarks.thresholds: with 2, 4 and 16 a network of 128 inputs kept 33.9, 33.9 and 34.9 dB, four seeds alone
give 33.5 to 34.5."""
CAUTION = ((0.0, 1.0), (0.3, 1.0), (0.6, 0.7), (0.6, 0.0), (1.0, 0.0))
"""What is tried where there are fewer: how far the covariance is drawn to its structure, and how much of the
correction towards the original's outputs is taken. Measured by benchmarks.thresholds: with these, the first
alone and the first with the last a network of 128 inputs kept 33.9, 34.9 and 34.9 dB: the choice among more
is not seen to pay there."""
CAUTION_POINTWISE = ((0.0, 1.0), (0.01, 1.0), (0.1, 1.0), (0.3, 1.0), (0.6, 1.0), (0.6, 0.0))
"""The same for operators of a single tap, whose covariance is drawn to equal variances. Derived: ridges of 0,
0.01, 0.1, 0.4 and 1.5 of the mean variance, no more than a decade apart, as their effect goes by its
logarithm."""
DRAWN = 0.5
"""How far it has to be drawn at least where half of the patches are fewer than its dimensions. Measured by
benchmarks.thresholds: any value from 0 to 1 gives the same on the samples, which
have more."""


Weighting: TypeAlias = "tuple[npt.NDArray[np.float64], ...]"
"""What errors in the outputs count, see `Statistics.weighting`."""


class Fitting(Protocol):
    """How a candidate is fitted: `fit` of its rewrite."""

    def __call__(self, candidate: Candidate, statistics: Statistics, refine: int) -> Fitted:
        """The candidate's replacement, fitted to these statistics."""
        ...


@dataclass(frozen=True, slots=True)
class Refitted:
    """One layer, fitted in order.

    Attributes:
        candidate: the layer and its form; its error is the predicted one.
        fitted: the replacement.
        partner: name of the value that the output is added to and that was made up for; "" for none.
        caution: what was taken of `CAUTION`; None where there were patches enough.
    """

    candidate: Candidate
    fitted: Fitted
    partner: str = ""
    caution: tuple[float, float] | None = None


def refit(
    analysis: Analysis,
    chosen: Sequence[Candidate],
    fit: Fitting,
    calibration: Calibration,
    samples: Samples,
    decided: Collection[str] = (),
    along: Collection[Candidate] = (),
    *,
    seed: int,
    memory: int,
) -> list[Refitted]:
    """Fits candidates of the outermost graph in order.

    Args:
        analysis: a snapshot of the original.
        chosen: at most one candidate an operator.
        fit: fits one candidate.
        calibration: how to batch the inputs.
        samples: the inputs to fit on.
        decided: names of the values that are those of the original whatever was compressed, see `StagedRun`.
        along: candidates at other operators, fitted only where those before changed what they have to make
            up for.
        seed: of the positions that are sampled.
        memory: bytes to take; half of them hold values, and what is over lies in files meanwhile.

    Returns:
        The fitted candidates, in the order of the network.

    Raises:
        SiteError: no input gives a layer as many rows as it has in the original.
    """
    program = Program(analysis.model)
    count = len(samples)
    if not calibration.fixed:
        calibration = replace(calibration, batch=min(calibration.batch, -(-count // BATCHES)))
    batches = list(calibration.batches(samples))
    places = {c: program.index[analysis.nodes[c.site.nodes[0]]] for c in (*chosen, *along)}
    wanted, done = frozenset(chosen), list[Refitted]()
    with Store(memory // 4) as ours, Store(memory // 4) as theirs, ThreadPoolExecutor(2) as pool:
        original = StagedRun(program, batches, ours)
        compressed = StagedRun(program, batches, theirs, original, decided)
        ordered = progress.track(sorted(places, key=places.__getitem__), "layers", describe=_layer)
        for number, candidate in enumerate(ordered):
            follows = candidate not in wanted
            if follows and not done:
                continue
            linear = anchor(analysis, candidate)
            place = places[candidate]
            original.advance(place, decided)
            compressed.advance(place)
            partner = _partner(analysis, linear, original)
            keep = (linear.x, linear.y, partner)
            original.forget(keep)
            compressed.forget(keep)
            moved = compressed.differs(linear.x) or bool(partner and compressed.differs(partner))
            if follows and not moved:
                continue
            original.advance(place + 1, keep)
            weighting = known(linear, analysis.statistics).weighting
            halves = _gather(linear, original, compressed, partner, seed + number, weighting, pool)
            if not halves:
                original.forget()
                if follows:
                    continue
                reason = "it reads rows that depend on content, and never as many as in the original"
                raise SiteError(reason, candidate)
            found = _fit(linear, weighting, candidate, fit, halves, count, pool, moved=moved)
            done.append(replace(found, partner=partner))
            compressed.replace(place, found.fitted.replacement)
            original.forget()
            compressed.forget()
    return done


def _layer(candidate: Candidate) -> str:
    return candidate.site.nodes[0]


def _partner(analysis: Analysis, linear: Linear, original: StagedRun) -> str:
    """The value that the operator's output is added to, where that is at hand already; "" for none."""
    output = linear.node.outputs[0]
    reader = analysis.sole_consumer(output)
    if reader is None or reader.op_type not in ("Add", "Sum") or len(reader.inputs) != 2:
        return ""
    others = [value for value in reader.inputs if value is not output]
    if len(others) != 1 or others[0] is None or analysis.constant(others[0]) is not None:
        return ""
    name = others[0].name or ""
    if analysis.shape(others[0]) != analysis.shape(output) or not original.holds(name):
        return ""
    return name


# ---------------------------------------------------------------- statistics


def _gather(
    linear: Linear,
    original: StagedRun,
    compressed: StagedRun,
    partner: str,
    seed: int,
    weighting: Weighting,
    pool: ThreadPoolExecutor,
) -> list[list[Joint]]:
    """Patches and wanted outputs together, of each group, of even and of odd batches.

    Batches in which the operator has no rows, or others than in the original, tell nothing.
    """
    x, y = compressed.values(linear.x), original.values(linear.y)
    sides: tuple[Sequence[npt.NDArray[Any]], ...] = ()
    if partner and compressed.differs(partner):
        sides = (original.values(partner), compressed.values(partner))
    usable = [
        number
        for number, exact in enumerate(original.values(linear.x))
        if exact.size and exact.shape == x[number].shape
        if all(side[number].shape == y[number].shape for side in sides)
    ]
    if not usable:
        return []
    most = positions(linear, sum(len(x[number]) for number in usable), FITTED_ROWS)
    out = (linear.out_channels or 1) // linear.group

    roots = weighting or (None,) * linear.group

    def half(start: int) -> list[Joint]:
        rng = np.random.default_rng((seed, start))
        totals = [JointAccumulator(operator.dimension(linear), out, root) for root in roots]
        for number in usable[start::2]:
            at = patches.positions(linear, x[number], most, rng)
            wanted = patches.outputs(linear, y[number], at)
            if sides:
                wanted = wanted + patches.outputs(linear, sides[0][number], at)
                wanted -= patches.outputs(linear, sides[1][number], at)
            for group, rows in enumerate(patches.inputs(linear, x[number], at)):
                totals[group].add(rows, wanted[:, group * out : (group + 1) * out])
        return [total.result() for total in totals]

    return list(pool.map(half, range(min(2, len(usable)))))


def _statistics(
    linear: Linear,
    weighting: Weighting,
    joint: Sequence[Joint],
    caution: tuple[float, float],
    *,
    moved: bool,
) -> Statistics:
    """What the fit of an operator needs to know, from patches and wanted outputs together."""
    structured, part = caution
    weights = algebra.blocks(linear.weight(), linear.group)
    groups, targets, kernels = [], [], []
    for weight, both in zip(weights, joint, strict=True):
        inputs, target = both.inputs, both.target
        if structured:
            inputs = _structured(inputs, weight.shape[1], structured)
        groups.append(inputs)
        if moved:
            flat = weight.reshape(len(weight), -1)
            extra = inputs.covariance - both.inputs.covariance
            drawn = target.cross + flat @ extra if structured else target.cross
            targets.append(replace(target, cross=drawn))
            kernels.append(tucker_fit.nearest_kernel(weight, inputs, targets[-1], part=part))
    return Statistics(tuple(groups), tuple(targets), tuple(kernels), weighting)


def _structured(moments: Moments, channels: int, part: float) -> Moments:
    """The covariance drawn to the product of one between channels and one between taps.

    That has (channels² + taps²) numbers to estimate instead of their product. With a single tap it is drawn
    to one that is the same in all directions.
    """
    covariance = moments.covariance
    taps = len(covariance) // channels
    if taps == 1:
        return shrinkage.drawn(moments, part)
    blocks = covariance.reshape(channels, taps, channels, taps)
    between_channels = np.einsum("itjt->ij", blocks) / taps
    between_taps = np.einsum("itiu->tu", blocks)
    between_taps *= taps / max(float(np.trace(between_taps)), 1e-300)
    product = np.einsum("ij,tu->itju", between_channels, between_taps).reshape(covariance.shape)
    return Moments(moments.mean, (1 - part) * covariance + part * product, moments.count)


# ---------------------------------------------------------------- fits


def _fit(
    linear: Linear,
    weighting: Weighting,
    candidate: Candidate,
    fit: Fitting,
    halves: Sequence[Sequence[Joint]],
    samples: int,
    pool: ThreadPoolExecutor,
    *,
    moved: bool,
) -> Refitted:
    """Fits a layer to all its statistics; with few patches as cautiously as is best across the two halves."""
    whole = halves[0]
    if len(halves) > 1:
        whole = [first.merged(second) for first, second in zip(*halves, strict=True)]
    plenty = whole[0].inputs.count >= ENOUGH * operator.dimension(linear) and samples >= ENOUGH_INPUTS
    if plenty or len(halves) < 2:
        fitted = fit(candidate, _statistics(linear, weighting, whole, (0.0, 1.0), moved=moved), 2)
        return Refitted(replace(candidate, error=fitted.error), fitted)
    taps = math.prod(linear.kernel)
    every = CAUTION if taps > 1 else CAUTION_POINTWISE
    ways = every if moved else tuple(way for way in every if way[1])
    if taps > 1 and min(half[0].inputs.count for half in halves) < operator.dimension(linear):
        ways = tuple(way for way in ways if way[0] >= DRAWN) or ways
    swapped = ((halves[0], halves[1]), (halves[1], halves[0]))

    def across(way: tuple[float, float], refine: int) -> list[tuple[Fitted, Sequence[Joint]]]:
        """Fits to each half, and the other half."""
        found = pool.map(
            lambda ours: fit(candidate, _statistics(linear, weighting, ours, way, moved=moved), refine),
            [ours for ours, _ in swapped],
        )
        return list(zip(found, [theirs for _, theirs in swapped], strict=True))

    best = min(ways, key=lambda way: _error(across(way, 0), as_counted=True))
    fitted = fit(candidate, _statistics(linear, weighting, whole, best, moved=moved), 2)
    error = _error(across(best, 2), as_counted=False)
    if min(half[0].inputs.count for half in halves) >= operator.dimension(linear):
        # With n samples of d numbers least squares leaves 1 − d/n of the noise on those it was fitted to, and
        # 1 + 2d/n on others when it was fitted to half of them; so 1 + d/n when it was fitted to all.
        error = (_error([(fitted, whole)], as_counted=False) + 2 * error) / 3
    return Refitted(replace(candidate, error=error), fitted, caution=best)


def _error(pairs: Sequence[tuple[Fitted, Sequence[Joint]]], *, as_counted: bool) -> float:
    """E‖R (y − ŷ)‖² / Var(R y) of fits, each on samples of patches and wanted outputs; without R if asked."""
    lost = total = 0.0
    for fitted, joint in pairs:
        for both, kernel in zip(joint, algebra.blocks(fitted.kernel, len(joint)), strict=True):
            lost += both.lost(kernel.reshape(len(kernel), -1).astype(np.float64), as_counted=as_counted)
            total += both.counted if as_counted else both.target.variance
    return lost / total if total > 0 else 0.0
