"""What leads a network: the values in which it is to do what the original does, and the weights that move."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.analysis.channels import Signal
from graphopt.analysis.operators import is_standard
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.compression.scales import scales
from graphopt.compression.tuning.student import Target, Teacher
from graphopt.model.constant_nodes import constant_tensor
from graphopt.numerics.spread import squares_of
from graphopt.runtime import session
from graphopt.runtime.program import Program
from graphopt.types import Array

INNER = 9
"""Values on the way that lead a network, at most: derived, three for each of three stages; what they take of
a step's time is little beside the layers before them."""
FEW = 3
"""Sums of branches under which other values lead too: derived, a third of `INNER`, one for each stage of a
network that has three."""
NEAR_ON = 32
"""Inputs by which it is told whether values of one name are the same in both networks: derived, as many as a
step takes; those that are not are several times what varies apart."""
OWN = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}
"""Places of weights that move where nothing else is said: those of products, of normalisations and slopes."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What makes a sum with a constant one with a bias, which moves too."""


def movable(analysis: Analysis, patterns: Sequence[str] = ()) -> dict[str, Array]:
    """The weights of a network's outermost graph that may move, in float32.

    Args:
        analysis: a snapshot of it.
        patterns: of their names; those of products, normalisations and slopes where there are none.

    Returns:
        What they hold, by name.
    """
    graph, found = analysis.model.graph, dict[str, Array]()
    held = dict(graph.initializers)
    held.update((node.outputs[0].name or "", node.outputs[0]) for node in graph if constant_tensor(node))
    named = {
        value.name or ""
        for node in graph
        if is_standard(node)
        for place, value in enumerate(node.inputs)
        if value is not None
        and (place in OWN.get(node.op_type, ()) or (node.op_type == "Add" and _biased(node)))
    }
    for name, value in held.items():
        wanted = any(fnmatch.fnmatchcase(name, each) for each in patterns) if patterns else name in named
        if not wanted or value.is_graph_output():
            continue
        array = analysis.constant(value)
        if array is not None and array.dtype == np.float32 and array.size and np.isfinite(array).all():
            found[name] = array.astype(np.float32, copy=False)
    return found


def _biased(node: ir.Node) -> bool:
    """Whether an Add puts something on what a product makes."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return any(maker is not None and maker.op_type in PRODUCTS for maker in makers)


def targets(
    reference: Analysis,
    candidate: Analysis,
    judged: Mapping[Signal, str],
    weights: Collection[str],
    calibration: Calibration,
    samples: Samples,
) -> list[Target]:
    """What leads a network: its outputs, and values on the way that both models have by the same name.

    Args:
        reference: a snapshot of the original, at the sizes that are run.
        candidate: the same of the network.
        judged: by what stands for an output in the original, the name of its twin in the network.
        weights: names of those that move.
        calibration: how to batch.
        samples: the inputs to fit to.

    Returns:
        The targets, those that judge first; none where no output varies.

    Raises:
        InputError: onnxruntime can't run a model.
    """
    inner = _inner(reference, candidate, weights, {signal.name for signal in judged})
    program, watched = Program(reference.model), [*judged, *inner]
    factors = scales(program, calibration, samples, watched)
    parts = [len(part) for part in calibration.parts(samples)]
    by_input = sum(parts) / len(parts)
    found = []
    for signal in watched:
        if signal.name not in factors:
            continue
        factor, _ = factors[signal.name]
        leads = signal not in judged
        part = np.float32(math.sqrt(by_input / (len(inner) if leads else 1)))
        twin = signal.name if leads else judged[signal]
        found.append(Target(signal.name, twin, factor * part, signal.axis, not leads))
    some = samples[: max(NEAR_ON, calibration.batch)]
    return _near(reference, candidate, found, list(calibration.parts(some)))


def _inner(
    reference: Analysis, candidate: Analysis, weights: Collection[str], outputs: Collection[str]
) -> list[Signal]:
    """Values on the way: sums of branches where there are some, else whatever both models make."""
    moving, made = set(weights), dict[str, ir.Value]()
    for node in candidate.model.graph:
        if any(value is not None and value.name in moving for value in node.inputs):
            moving.update(value.name or "" for value in node.outputs)
            made.update((value.name or "", value) for value in node.outputs)
    sums, others = list[Signal](), list[Signal]()
    for node in reference.model.graph:
        value = node.outputs[0] if node.outputs else None
        twin = None if value is None or value.name in outputs else made.get(value.name or "")
        if value is None or twin is None or not is_standard(node):
            continue
        shape, kind = reference.shape(value), reference.sizes.dtype(value)
        if shape is None or len(shape) < 2 or shape != candidate.shape(twin) or kind is not ir.DataType.FLOAT:
            continue
        joins = node.op_type in ("Add", "Sum") and not any(map(reference.constants.is_constant, node.inputs))
        (sums if joins else others).append(Signal(value, 1, common=True))
    chosen = sums if len(sums) >= FEW else others
    if len(chosen) <= INNER:
        return chosen
    return [chosen[round((i + 1) * len(chosen) / INNER) - 1] for i in range(INNER)]


def _near(
    reference: Analysis, candidate: Analysis, found: Sequence[Target], parts: Sequence[Samples]
) -> list[Target]:
    """Those in which the network does what the original does at all; a name may mean something else."""
    twins = {target.name: Target(target.twin, target.twin, target.scale, None, True) for target in found}
    wanted = Teacher(session.structure(reference.model), found)
    made = Teacher(session.structure(candidate.model), list(twins.values()))
    lost = dict.fromkeys(twins, 0.0)
    for part in parts:
        feeds = part.joined()
        theirs, own = wanted.values(feeds), made.values(feeds)
        for target in found:
            gap = (own[target.twin] - theirs[target.name]) * target.scale
            lost[target.name] += float(squares_of(gap, None).sum())
    leading, count = sum(not target.judged for target in found), sum(map(len, parts))
    return [target for target in found if target.judged or lost[target.name] * leading < count]
