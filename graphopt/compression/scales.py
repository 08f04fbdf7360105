"""How much each channel of a value counts: by the inverse of what it varies with the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from graphopt.analysis.channels import Signal
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.numerics.spread import Spread
from graphopt.runtime import session
from graphopt.runtime.program import Program

SMALLEST, LARGEST = 1e-30, 1e30
"""What varies by less or by more does not count: onnxruntime ends the process on a deviation of 0.
Derived: float32 has eight decades more on either side, for the sums on the way."""


def scales(
    program: Program, calibration: Calibration, samples: Samples, watched: Sequence[Signal]
) -> Mapping[str, tuple[npt.NDArray[np.float32], tuple[int, ...]]]:
    """What the channels of values are to be multiplied with for all to count alike.

    A channel counts by the inverse of its deviation, and a value by that of its size, so that the squares of
    an error so multiplied add up to its mean part of the variance; what does not vary counts nothing.

    Args:
        program: the operators of the model.
        calibration: how to batch.
        samples: the inputs to run.
        watched: the values.

    Returns:
        The factors of a value, in a shape that spreads over it, and its shape for a batch, by name.

    Raises:
        InputError: onnxruntime can't run the model.
    """
    names = [signal.name for signal in watched]
    if not names:
        return {}
    running = session.session(program.piece(program.nodes, samples.kinds, names), optimised=True)
    spreads = [Spread(signal.axis, common=signal.common) for signal in watched]
    parts = list(calibration.parts(samples))
    for part in parts:
        values = session.run(running, part.joined(), names)
        for spread, value in zip(spreads, values, strict=True):
            spread.add(value, len(part))
    found = {}
    for signal, spread, value in zip(watched, spreads, values, strict=True):
        deviations = np.sqrt(spread.variances)
        counts = (deviations > SMALLEST) & (deviations < LARGEST)
        if not counts.any():
            continue
        scale = np.where(counts, 1 / np.where(counts, deviations, 1.0), 0.0) / math.sqrt(
            spread.count.sum() / len(parts)
        )
        if signal.axis is not None and len(scale) > 1:
            scale = scale.reshape(-1, *(1,) * (value.ndim - 1 - signal.axis))
        found[signal.name] = scale.astype(np.float32), value.shape
    return found
