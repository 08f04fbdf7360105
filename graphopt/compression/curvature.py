"""Gauss-Newton weights of errors: how much an error in a layer's outputs changes the network's output.

To second order an error e in the outputs of a layer at one position changes the network's outputs by eᵀ G e,
G = E[Jᵀ J] with J the derivative of the network's outputs in them (the Gauss-Newton matrix; Martens 2020,
"New insights and perspectives on the natural gradient method"). For a random r with E[r rᵀ] = I it is
E[(Jᵀ r)(Jᵀ r)ᵀ], and Jᵀ r is one pass backwards. Factors that are fitted to lose least of ‖R e‖², RᵀR = G,
lose what the network does not need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt import progress
from graphopt.analysis.channels import Signal
from graphopt.analysis.constants import default_opset
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration, affordable
from graphopt.calibration.samples import Samples
from graphopt.compression.autodiff.gradients import free_prefix, gradients
from graphopt.compression.autodiff.rules import RULES
from graphopt.compression.scales import scales
from graphopt.numerics.lowrank.linalg import cholesky
from graphopt.runtime import session
from graphopt.runtime.program import Program

Float64 = npt.NDArray[np.float64]

DAMPING = 0.1
"""Of each channel's own part of G besides (Marquardt 1963): only small errors change the outputs linearly.
Measured by benchmarks.thresholds: with 0.01, 0.1 and 1 a network of 128 inputs kept 35.2, 33.9 and 34.1
dB."""
FLOOR = 1e-5
"""Of the mean part besides, so that G has an inverse. Measured by benchmarks.thresholds: any value from
1e-7 to 1e-3 gives the same."""
CURVATURE_INPUTS = 256
"""Inputs that are run, at most. Measured by benchmarks.thresholds: with 8, 32 and all of 96 a network kept
32.9, 33.6 and 33.9 dB, four seeds alone give 33.5 to 34.5: more are not seen to pay."""
FEWEST_INPUTS = 8
"""And at least, where there are so many; all positions of each count. Measured by the same: with 8 in the
place of 96 a network lost 1 dB."""
CURVATURE_MACS = 1e12
"""Multiply-accumulates that all may take, about: derived, 18 seconds at
`time_model.DENSE_MACS_PER_SECOND`."""
BYTES = 1 << 30
"""Of the values of the inputs that are run at once, about; no result depends on it but by rounding."""
COPIES = 3
"""Of each value: derived, itself, its gradient, and what is on the way."""
PASSES = 3
"""Passes over the network that one input takes, about: derived, forward, and back at twice the price (by
inputs and by outputs)."""

WIDEST = 2048
"""Outputs of a layer of which it is told how errors in several go together. Derived: a matrix of its square
takes 34 MB, and a root of it a second; of a vocabulary of 6,625 it would be 350 MB and half a minute."""
AXES_READ_SINCE = 18
"""The opset since which ReduceSumSquare reads its axes: derived, from its definition."""
BROADCASTING_SINCE = 7
"""The opset since which Mul takes operands of other shapes: derived, from its definition. Before, all
channels of an output count alike."""
FED_SINCE = 22
"""The opset since which r is fed: derived, onnxruntime has kernels for RandomNormalLike of opset 1 alone, and
22 defines another."""


@np.errstate(over="ignore", invalid="ignore")  # weights that are none are left out
def weightings(
    analysis: Analysis,
    linears: Sequence[Linear],
    calibration: Calibration,
    samples: Samples,
    watched: Sequence[Signal],
    *,
    seed: int,
) -> dict[str, tuple[Float64, ...]]:
    """For each layer and each of its groups R ``[out / group, out / group]``: an error e counts ‖R e‖².

    Of a layer of more than `WIDEST` outputs, each counts by itself: R is given by its diagonal.

    R is scaled so that on average over directions an error counts as it is. A layer is left out where the
    derivative is not known: behind it stands an operator without a rule, or the network is not in float32.

    Args:
        analysis: a snapshot of the model.
        linears: the layers, of the outermost graph.
        calibration: how to batch the inputs.
        samples: the inputs to run.
        watched: the values that count as the network's outputs.
        seed: of r.

    Returns:
        One R for each group, by name of the operator.

    Raises:
        InputError: onnxruntime can't run the operators that make the gradients.
    """
    samples, calibration = _batched(analysis, samples, calibration)
    count = len(samples)
    analysis = sized(analysis, calibration, samples)
    linears = [each for linear in linears if (each := analysis.linear(linear.node)) is not None]
    program = Program(analysis.model)
    nodes, constants, squares, fed = _squares(analysis, program, linears, calibration, samples, watched, seed)
    known = [linear for linear in linears if linear.name in squares]
    if not known:
        return {}
    outputs = [squares[linear.name] for linear in known]
    kinds = {**samples.kinds, **dict.fromkeys(fed, np.dtype(np.float32))}
    running = session.session(
        program.piece([*program.nodes, *nodes], kinds, outputs, constants), optimised=True
    )
    rng = np.random.default_rng(seed)
    totals = [np.zeros((linear.out_channels or 0,) * (1 if _wide(linear) else 2)) for linear in known]
    for part in progress.track(list(calibration.batches(samples)), "inputs"):
        drawn = {name: mean * rng.standard_normal(shape, np.float32) for name, (shape, mean) in fed.items()}
        for total, more in zip(totals, session.run(running, {**part, **drawn}, outputs), strict=True):
            total += more
    found = {}
    for linear, total in zip(known, totals, strict=True):
        roots = _roots(total, linear.group, _positions(linear) * count // calibration.batch)
        if roots:
            found[linear.name] = roots
    return found


def _squares(
    analysis: Analysis,
    program: Program,
    linears: Sequence[Linear],
    calibration: Calibration,
    samples: Samples,
    watched: Sequence[Signal],
    seed: int,
) -> tuple[
    list[onnx.NodeProto],
    dict[str, npt.NDArray[np.generic]],
    dict[str, str],
    dict[str, tuple[tuple[int, ...], np.float32]],
]:
    """Operators for Σ (Jᵀr)(Jᵀr)ᵀ ``[out, out]`` of each layer, their constants, and its name by layer.

    Of a wide layer it is the diagonal ``[out]``. Last come the shapes and deviations of what has to be fed.
    """
    prefix = free_prefix(analysis.model)
    given, nodes, fed = {}, [], {}
    constants: dict[str, npt.NDArray[np.generic]] = {}
    factors = scales(program, calibration, samples, _made(analysis, watched))
    for number, (name, (scale, shape)) in enumerate(factors.items()):
        given[name], weight = f"{prefix}/of/{number}", f"{prefix}/of/{number}/weight"
        alike = scale.size == 1 or default_opset(analysis.model) < BROADCASTING_SINCE
        drawn = given[name] if alike else f"{prefix}/of/{number}/drawn"
        mean = math.sqrt(float(np.mean(np.square(scale, dtype=np.float64)))) if alike else 1.0
        if default_opset(analysis.model) < FED_SINCE:
            nodes.append(
                onnx.helper.make_node(
                    "RandomNormalLike", [name], [drawn], scale=mean, seed=float(seed + number)
                )
            )
        else:
            fed[drawn] = shape, np.float32(mean)
        if not alike:
            constants[weight] = scale
            nodes.append(onnx.helper.make_node("Mul", [drawn, weight], [given[name]]))
    usable = [x for x in linears if x.dtype == np.float32 and x.channel_axis is not None]
    made = gradients(analysis, program, [x.y for x in usable], given, prefix)
    nodes += made.nodes
    constants.update(made.constants)
    found: dict[str, str] = {}
    for linear in usable:
        if linear.y not in made.names:
            continue
        name = f"{prefix}/square/{len(found)}"
        rank, axis = linear.rank or 2, linear.channel_axis or 1
        order = [axis, *(a for a in range(rank) if a != axis)]
        constants[f"{prefix}/last"] = np.array([1])
        constants[f"{name}/shape"] = np.array([linear.out_channels or 0, -1])
        nodes += [
            onnx.helper.make_node("Transpose", [made.names[linear.y]], [f"{name}/turned"], perm=order),
            onnx.helper.make_node("Reshape", [f"{name}/turned", f"{name}/shape"], [f"{name}/rows"]),
        ]
        if _wide(linear):
            node = onnx.helper.make_node("ReduceSumSquare", [f"{name}/rows"], [name], keepdims=0)
            if default_opset(analysis.model) < AXES_READ_SINCE:
                node.attribute.append(onnx.helper.make_attribute("axes", [1]))
            else:
                node.input.append(f"{prefix}/last")
            nodes.append(node)
        else:
            nodes += [
                onnx.helper.make_node("Transpose", [f"{name}/rows"], [f"{name}/columns"], perm=[1, 0]),
                onnx.helper.make_node("MatMul", [f"{name}/rows", f"{name}/columns"], [name]),
            ]
        found[linear.name] = name
    return nodes, constants, found, fed


def _roots(total: Float64, group: int, rows: int) -> tuple[Float64, ...]:
    """R of each group, from Σ (Jᵀr)(Jᵀr)ᵀ over so many rows; empty where nothing counts."""
    mean = float((total if total.ndim == 1 else np.diag(total)).sum()) / max(1, len(total))
    if not (mean > 0 and math.isfinite(mean)):
        return ()
    if total.ndim == 1:
        return tuple(np.split(np.sqrt(total / mean + FLOOR), group))
    size = len(total) // group
    noise = size / (size + rows)  # what so few rows say of how channels go together is chance in part
    found = []
    for start in range(0, len(total), size):
        block = total[start : start + size, start : start + size] / mean
        block = (1 - noise) * (block + block.T) / 2
        block += np.diag((noise + DAMPING) * np.diag(block) / (1 - noise) + FLOOR)
        found.append(cholesky(block).T)
    return tuple(found)


def _wide(linear: Linear) -> bool:
    return (linear.out_channels or 0) > WIDEST


def _positions(linear: Linear) -> int:
    """Output positions of the inputs that are run at once."""
    shape = linear.output_shape or ()
    return math.prod(size or 1 for axis, size in enumerate(shape) if axis != linear.channel_axis)


def _made(analysis: Analysis, watched: Sequence[Signal]) -> list[Signal]:
    """Those values that operators make, of numbers in float32."""
    made = [signal for signal in watched if signal.value.producer() is not None]
    return [s for s in made if analysis.sizes.dtype(s.value) in (None, ir.DataType.FLOAT)]


def _batched(analysis: Analysis, samples: Samples, calibration: Calibration) -> tuple[Samples, Calibration]:
    """The inputs to run, of one size, and so many at once that all batches are equally large."""
    samples, batch = samples.of_one_size, calibration.batch
    least = max(FEWEST_INPUTS, batch) if calibration.fixed else FEWEST_INPUTS
    most = min(len(samples), CURVATURE_INPUTS)
    count = affordable(CURVATURE_MACS, analysis.totals.macs, PASSES, least, most)
    if not calibration.fixed:
        batch = min(batch, max(1, BYTES // (COPIES * bytes_of_values(analysis))))
        batch = count // -(-count // batch)
    count -= count % batch
    return samples[:count], replace(calibration, batch=batch)


def sized(analysis: Analysis, calibration: Calibration, samples: Samples) -> Analysis:
    """The snapshot at the batch that is run; what follows from no rule is seen where it does not vary.

    Args:
        analysis: a snapshot of the model.
        calibration: how to batch.
        samples: the inputs that are run, all of one size.

    Returns:
        The snapshot at their sizes.

    Raises:
        InputError: onnxruntime can't run the model.
    """
    sizes = {name: array.shape for name, array in samples[: calibration.batch].joined().items()}
    found = analysis.at(sizes)
    values = [
        v for node in analysis.model.graph if node.op_type in RULES for v in (*node.inputs, *node.outputs)
    ]
    shapes = {v.name or "": found.shape(v) for v in values if v is not None and v.name}
    unknown = [name for name, shape in shapes.items() if shape is None or None in shape]
    if not unknown:
        return found
    batches = list(calibration.batches(samples))
    first, last = (session.observe(analysis.model, batches[i], unknown) for i in (0, -1))
    return analysis.at(sizes, {name: shape for name, shape in first.items() if last[name] == shape})


def bytes_of_values(analysis: Analysis) -> int:
    """Bytes of all values on the way of one input, as far as they are known."""
    shapes = (analysis.shape(value) for node in analysis.model.graph for value in node.outputs)
    return 4 * sum(math.prod(s or 1 for s in shape) for shape in shapes if shape is not None) or 1
