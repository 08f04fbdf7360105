"""What the operators of a model see of the calibration inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis import costs
from graphopt.analysis.linear import Linear, operator
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import patches
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.model.traversal import subgraphs
from graphopt.numerics.lowrank import shrinkage
from graphopt.numerics.lowrank.moments import MomentsAccumulator, Statistics
from graphopt.runtime import exposure, session
from graphopt.runtime.limits.memory import chunks
from graphopt.runtime.session import Feeds
from graphopt.types import Array

PLANNED_ROWS = 24
"""Samples aimed at for each dimension of a covariance that only a plan is made from. Measured by
benchmarks.thresholds: with 6, 24 and 96 a network kept 33.4, 33.9 and 33.9 dB."""
FITTED_ROWS = 96
"""The same for one that a layer is fitted to; with 7 a fit was worse than none. Measured by
benchmarks.thresholds: with 24, 96 and 384 a network kept 33.89, 33.93 and 33.93 dB."""
POSITIONS = 16
"""Output positions sampled from an input, at least. Measured by benchmarks.thresholds: with 4, 16 and 64 a
network of 128 inputs kept 33.9 dB each time: they only count where inputs give more rows than are asked
for."""
COVARIANCE_BYTES = 1 << 30
"""Covariances gathered in one pass over the inputs; what does not fit takes another pass, and no result
depends on it."""
VALUES_BYTES = 1 << 27
"""Values held at once for statistics, about, where the model leaves the batch open: derived, an eighth of
what the covariances may take."""
THREADS = 2
"""Operators whose statistics are added to at once; no result depends on it."""


def stream(
    model: ir.Model,
    names: Sequence[str],
    calibration: Calibration,
    samples: Samples,
    given: Iterable[Feeds] = (),
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The content of values of the outermost graph, batch by batch.

    Args:
        model: the model.
        names: the values.
        calibration: how to batch.
        samples: the inputs to run.
        given: for each batch, values that the model is given in the place of what computes them.

    Returns:
        For each batch the arrays, by name.
    """
    fed = [name for name in names if name in samples.names]
    wanted = [name for name in names if name not in samples.names]
    running = None
    batches = progress.track(list(calibration.batches(samples)), "inputs")
    for part, told in zip(batches, given or itertools.repeat({}), strict=False):
        values = {name: part[name] for name in fed}
        if wanted:
            if running is None:
                parts = exposure.exposed(session.structure(model), wanted)
                running = session.session(exposure.given(parts, told) if told else parts, optimised=True)
            made = session.run(running, {**part, **exposure.fed(told)}, wanted)
            values.update(zip(wanted, made, strict=True))
        yield values


def bytes_of(
    model: ir.Model, names: Iterable[str], calibration: Calibration, samples: Samples
) -> dict[str, int]:
    """Bytes of values for one input; for a whole batch where its size is fixed.

    Args:
        model: the model.
        names: the values, of the outermost graph.
        calibration: how to batch.
        samples: the inputs, of which the first is run.

    Returns:
        The bytes by name.
    """
    first = samples[: calibration.batch if calibration.fixed else 1]
    (values,) = stream(model, sorted(set(names)), calibration, first)
    return {name: array.nbytes for name, array in values.items()}


def graphs_run(analysis: Analysis, calibration: Calibration, samples: Samples) -> set[ir.Graph]:
    """The graphs of a model that one of the inputs at least is known to run.

    Which branch of an If in the outermost graph is taken, and whether a Loop there begins, is read off what
    decides it; of those within other bodies only what holds for every input is known.

    Args:
        analysis: a snapshot of the model.
        calibration: how to batch the inputs.
        samples: the inputs to run.

    Returns:
        The outermost graph, and the bodies that are run.
    """
    found = {analysis.model.graph}
    owners = [node for node in analysis.model.graph if any(subgraphs(node))]
    if not owners:
        return found
    deciding = [
        value for node in owners for value in costs.deciding(node) if analysis.constant(value) is None
    ]
    for values in stream(analysis.model, sorted({v.name or "" for v in deciding}), calibration, samples):

        def content(value: ir.Value, values: Feeds = values) -> npt.NDArray[Any] | None:
            held = values.get(value.name or "")
            return held if isinstance(held, np.ndarray) else analysis.content(value)

        for node in owners:
            answers = costs.sure_to_run(node, analysis.shape, content).items()
            found.update(body for body, sure in answers if sure)
    pending = [graph for graph in found if graph is not analysis.model.graph]
    while pending:
        for node in pending.pop():
            answers = costs.sure_to_run(node, analysis.shape, analysis.content).items()
            inner = [body for body, sure in answers if sure]
            found.update(inner)
            pending += inner
    return found


def statistics(
    analysis: Analysis, linears: Sequence[Linear], calibration: Calibration, samples: Samples, seed: int
) -> dict[str, Statistics]:
    """Mean and covariance of the patches that each linear operator of the outermost graph reads.

    Args:
        analysis: a snapshot of the model.
        linears: the operators.
        calibration: how to batch the inputs.
        samples: the inputs to run.
        seed: of the positions that are sampled.

    Returns:
        The statistics by name of the operator.
    """
    found: dict[str, Statistics] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks(linears, _covariance_bytes, COVARIANCE_BYTES):
            gatherers = [
                _Gatherer(linear, positions(linear, len(samples), PLANNED_ROWS), seed) for linear in chunk
            ]
            names = sorted({linear.x for linear in chunk})
            if not calibration.fixed:
                size = sum(bytes_of(analysis.model, names, calibration, samples).values())
                batch = min(max(1, VALUES_BYTES // max(1, size)), calibration.batch)
                calibration = replace(calibration, batch=batch)
            for values in stream(analysis.model, names, calibration, samples):
                list(pool.map(lambda each, seen=values: each.add(seen[each.linear.x]), gatherers))
            while gatherers:  # what a layer's totals take is free before the next result is made
                each = gatherers.pop(0)
                found[each.linear.name] = each.result()
    return found


class _Gatherer:
    """Takes in what one operator reads, batch by batch."""

    def __init__(self, linear: Linear, most: int, seed: int) -> None:
        self.linear = linear
        self._most = most
        self._rng = np.random.default_rng(seed)
        self._halves = [
            [MomentsAccumulator(operator.dimension(linear)) for _ in range(linear.group)] for _ in range(2)
        ]
        self._samples = 0

    def add(self, x: npt.NDArray[Any]) -> None:
        at = patches.positions(self.linear, x, self._most, self._rng)
        for half, totals in enumerate(self._halves):
            ours = x[(half + self._samples) % 2 :: 2]
            if not len(ours):
                continue
            for total, rows in zip(totals, patches.inputs(self.linear, ours, at), strict=True):
                total.add(rows)
        self._samples += len(x)

    def result(self) -> Statistics:
        """The moments of all patches; where they are few, drawn to what patches of other inputs have."""
        found = []
        for first, second in zip(*self._halves, strict=True):
            if not second.count:
                found.append(first.result())
                continue
            halves = first.result(), second.result()
            with np.errstate(over="ignore", invalid="ignore"):  # who reads the covariance checks it
                whole = halves[0].merged(halves[1])
            few = whole.count < PLANNED_ROWS * len(whole.mean)
            finite = all(np.isfinite(each.covariance).all() for each in (*halves, whole))
            found.append(shrinkage.drawn(whole, shrinkage.likeliest(halves)) if few and finite else whole)
        return Statistics(tuple(found))


def positions(linear: Linear, samples: int, rows: int) -> int:
    """Output positions to sample from each of so many inputs, for so many rows a dimension.

    Args:
        linear: the operator.
        samples: how many inputs there are.
        rows: patches to take for each dimension of a patch.

    Returns:
        Positions of one input, at least `POSITIONS`.
    """
    return max(POSITIONS, -(-rows * operator.dimension(linear) // samples))


def _covariance_bytes(linear: Linear) -> int:
    """Of the totals of both halves, and of what is added to them."""
    return 24 * linear.group * operator.dimension(linear) ** 2


def extremes(
    analysis: Analysis, linears: Sequence[Linear], calibration: Calibration
) -> dict[str, tuple[Array, Array]]:
    """Lowest and highest value [out] of each operator's output over all calibration inputs, by its name.

    Args:
        analysis: a snapshot of the model.
        linears: the operators, of the outermost graph.
        calibration: the inputs; those held out count too.

    Returns:
        Lowest and highest value, ``[out_channels]`` each, by name of the operator.
    """
    names = {linear.y: linear.name for linear in linears}
    found: dict[str, tuple[Array, Array]] = {}
    for part in (calibration.fit, calibration.held_out):
        for values in stream(analysis.model, sorted(names), calibration, part):
            for y, name in names.items():
                rows = np.moveaxis(values[y], 1, -1).reshape(-1, values[y].shape[1]).astype(np.float64)
                if not len(rows):
                    continue
                low, high = found.get(name, (rows[0], rows[0]))
                found[name] = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return found
