"""Measures how much an error in each layer harms the network's output.

Each layer alone gets the kernel that a form of it amounts to, at a few levels of error, and the rest of the
network behind it is run. So one session a layer serves all forms and levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from graphopt import progress
from graphopt.analysis.channels import Signal
from graphopt.analysis.input_statistics import counted_error
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration, affordable
from graphopt.calibration.samples import Samples
from graphopt.compression.sequential_fit import Fitting
from graphopt.numerics.kernels import algebra
from graphopt.numerics.lowrank.moments import Statistics
from graphopt.numerics.spread import Spread, added, squares_of
from graphopt.planning.damage import Sensitivity
from graphopt.runtime import session
from graphopt.runtime.program import Program
from graphopt.runtime.session import Feeds
from graphopt.runtime.spill import Store
from graphopt.runtime.staged import StagedRun
from graphopt.types import Candidate, Fitted

LEVELS = (0.01, 0.05, 0.25)
"""Relative errors of a layer that are probed, about. Measured by benchmarks.thresholds: (0.002, 0.01, 0.05),
these, (0.05, 0.25, 0.6) and 0.05 alone kept 34.3, 33.9, 33.6 and 33.6 dB: four seeds alone give 33.5 to
34.5."""
LEAST_ERROR = 1e-30
"""What an error of 0 counts as beside the levels, since its logarithm has to be finite: derived, far below
eps² of float32, 1e-14, so that it is the farthest of all."""
PROBE_INPUTS = 128
"""Inputs that are run for each probe, at most: derived, the mean of 128 squares is off by √(2/128), an
eighth."""
FEWEST_INPUTS = 16
"""And at least, where there are so many: derived, the mean of 16 squares is off by √(2/16), a third, and
plans compare damages that lie decades apart."""
PROBE_MACS = 8e12
"""Multiply-accumulates that all probes together may take, about: derived, 8e12 /
`time_model.DENSE_MACS_PER_SECOND` are 140 seconds at one thread."""


def inputs_to_probe(macs: int | None, samples: int, layers: int) -> int:
    """How many inputs to run for each probe.

    Args:
        macs: of the model for one input; None where unknown.
        samples: number of inputs that there are.
        layers: number of layers to probe; on average half of the network is behind each.

    Returns:
        At least `FEWEST_INPUTS`, unless there are fewer.
    """
    return affordable(PROBE_MACS, macs, 0.5 * layers * len(LEVELS), FEWEST_INPUTS, min(samples, PROBE_INPUTS))


@np.errstate(over="ignore", invalid="ignore")  # a probe that is not finite counts as the worst
def sensitivities(
    analysis: Analysis,
    candidates: Mapping[str, Sequence[Candidate]],
    statistics: Mapping[str, Statistics],
    fit: Fitting,
    calibration: Calibration,
    samples: Samples,
    watched: Sequence[Signal],
    decided: Sequence[str],
    memory: int,
) -> dict[str, Sensitivity]:
    """The sensitivity of each layer, by name of its operator.

    Args:
        analysis: a snapshot of the model.
        candidates: those of each operator of the outermost graph.
        statistics: of the operators' inputs.
        fit: fits one candidate.
        calibration: how to batch the inputs.
        samples: the inputs to run.
        watched: the values that stand for the outputs that count.
        decided: names of the values that are those of the original whatever a probe changes: what operators
            decide, so that rows that are picked stay the same.
        memory: bytes to take; half of them hold values, the rest is left to sessions and statistics.

    Returns:
        For each operator the mean squared change of the network's output over its variance, by its own error.
    """
    program = Program(analysis.model)
    reference, given = _reference(program, calibration, samples, watched, decided)
    spreads = _spreads(watched, reference, [len(part) for part in calibration.parts(samples)])
    batches = list(calibration.batches(samples))
    found: dict[str, Sensitivity] = {}
    with Store(memory // 2) as store:
        walk = StagedRun(program, batches, store)
        linears = {name: analysis.linear(analysis.nodes[name]) for name in candidates}
        ordered = sorted(candidates, key=lambda n: program.index[analysis.nodes[n]])
        for name in progress.track(ordered, "layers", describe=str):
            linear = linears[name]
            assert linear is not None
            place = program.index[linear.node]
            walk.advance(place)
            walk.forget((linear.x,))
            kernels = [fit(c, statistics[name], 0) for c in _at_levels(candidates[name])]
            harms = _harm(program, walk, linear, kernels, watched, reference, given, spreads)
            errors = [counted_error(linear, k.kernel, statistics[name]) for k in kernels]
            found[name] = Sensitivity.of(list(zip(errors, harms, strict=True)))
    return found


def _reference(
    program: Program,
    calibration: Calibration,
    samples: Samples,
    watched: Sequence[Signal],
    decided: Sequence[str],
) -> tuple[list[list[npt.NDArray[Any]]], list[Feeds]]:
    """What the original makes, for each batch: what is watched, and what it decides, by name."""
    names = [*(signal.name for signal in watched), *decided]
    running = session.session(program.piece(program.nodes, samples.kinds, names), optimised=True)
    made = [session.run(running, part, names) for part in calibration.batches(samples)]
    count = len(watched)
    return [batch[:count] for batch in made], [
        {
            name: each
            for name, each in zip(decided, batch[count:], strict=True)
            if isinstance(each, np.ndarray)
        }
        for batch in made
    ]


def _at_levels(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates whose errors are nearest to the levels, each once."""
    usable = [c for c in candidates if c.error > 0] or list(candidates)
    near = (min(usable, key=lambda c: abs(math.log(max(c.error, LEAST_ERROR) / level))) for level in LEVELS)
    return list(dict.fromkeys(near))


def _harm(
    program: Program,
    walk: StagedRun,
    linear: Linear,
    fits: Sequence[Fitted],
    watched: Sequence[Signal],
    reference: Sequence[Sequence[npt.NDArray[Any]]],
    decided: Sequence[Feeds],
    spreads: Sequence[Spread],
) -> list[float]:
    """For each fit the mean squared change of the channels over their variances, the mean of the outputs."""
    place = program.index[linear.node]
    weight, bias = "probe/weight", "probe/bias"
    after = [node for node in program.nodes[place + 1 :] if decided[0].keys().isdisjoint(node.output)]
    nodes = [*_damaged(program.nodes[place], linear, weight, bias), *after]
    made = {name for node in nodes for name in node.output}
    present = [(i, signal) for i, signal in enumerate(watched) if signal.name in made]
    if not present:
        return [0.0] * len(fits)
    read = dict.fromkeys(name for i in range(place, len(program.nodes)) for name in sorted(program.reads(i)))
    given = [name for name in read if name not in made and walk.holds(name)]
    told = [name for name in read if name in decided[0] and name not in given]
    kinds = {name: walk.values(name)[0].dtype for name in given}
    kinds.update({name: decided[0][name].dtype for name in told})
    kind = kinds.get(linear.x, np.dtype(np.float32))
    names = [signal.name for _, signal in present]
    running = session.session(
        program.piece(nodes, {**kinds, weight: kind, bias: kind}, names), optimised=True
    )
    harms = []
    for fit in fits:
        damaged = {
            weight: _stored(linear, fit.kernel).astype(kind),
            bias: fit.bias.astype(kind),
        }
        squares = [np.zeros(0)] * len(present)
        for number, exact in enumerate(reference):
            inputs = {name: walk.values(name)[number] for name in given}
            inputs.update({name: decided[number][name] for name in told})
            results = session.run(running, {**inputs, **damaged}, names)
            for which, ((i, signal), result) in enumerate(zip(present, results, strict=True)):
                more = _squares(signal, exact[i], result, spreads[i])
                squares[which] = more if not len(squares[which]) else added(squares[which], more)
        total = sum(
            float(np.mean(spreads[i].errors(each))) for (i, _), each in zip(present, squares, strict=True)
        )
        harms.append(total / len(watched))
    return harms


def _squares(
    signal: Signal, exact: npt.NDArray[Any], found: npt.NDArray[Any], spread: Spread
) -> npt.NDArray[np.float64]:
    """The squared change of each channel; all of its variance where rows were lost."""
    if found.shape != exact.shape:
        return spread.variances * exact.size / max(1, len(spread.count))
    return squares_of(found.astype(np.float64) - exact, signal.axis)


def _spreads(
    watched: Sequence[Signal], batches: Sequence[Sequence[npt.NDArray[Any]]], counts: Sequence[int]
) -> list[Spread]:
    """What varies in each value over all batches, of so many inputs each."""
    found = [Spread(signal.axis, common=signal.common) for signal in watched]
    for batch, count in zip(batches, counts, strict=True):
        for spread, array in zip(found, batch, strict=True):
            spread.add(array, count)
    return found


def _damaged(node: onnx.NodeProto, linear: Linear, weight: str, bias: str) -> list[onnx.NodeProto]:
    """The operator with weights and a bias that are fed."""
    if linear.kernel:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return [onnx.helper.make_node(linear.op, [node.input[0], weight, bias], node.output, **attributes)]
    middle = f"{node.output[0]}/probe"
    return [
        onnx.helper.make_node("MatMul", [node.input[0], weight], [middle]),
        onnx.helper.make_node("Add", [middle, bias], [node.output[0]]),
    ]


def _stored(linear: Linear, kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A kernel in the layout of the operator's weights, MatMul's for a Gemm."""
    if linear.op == "ConvTranspose":
        return np.ascontiguousarray(algebra.transpose_layout(kernel, linear.group))
    return kernel if linear.kernel else np.ascontiguousarray(kernel.T)
