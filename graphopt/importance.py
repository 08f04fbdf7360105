"""What an error in each output channel of an operator counts.

Behind an InstanceNormalization every channel has the same variance, whatever it had before: an error in a
channel that varies little is amplified with it. So there an output is measured in standard deviations of its
channel, times the normalisation's scale. Elsewhere all outputs count the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graphopt.analysis import Analysis
from graphopt.conv import Linear
from graphopt.moments import Moments
from graphopt.patterns import factored

Float64 = npt.NDArray[np.float64]

QUIET = 1e-3
"""Variance of a channel, as a part of the mean variance, below which it counts no more than there."""


def importance(analysis: Analysis, linear: Linear, groups: Sequence[Moments]) -> Float64 | None:
    """The factor ``[out]`` by which an error in each output counts; None where all count the same.

    Args:
        analysis: a snapshot of the model.
        linear: the operator.
        groups: moments of the patches that each of its groups reads.
    """
    scale = _normalised(analysis, linear)
    if scale is None:
        return None
    variances = []
    for weight, moments in zip(factored.blocks(linear.weight(), linear.group), groups, strict=True):
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        variances.append(np.sum((flat @ moments.covariance) * flat, axis=1))
    variance = np.concatenate(variances)
    mean = float(variance.mean())
    if not mean > 0:
        return None
    found: Float64 = np.abs(scale) / np.sqrt(np.maximum(variance, 0.0) + QUIET * mean)
    size = float(np.sqrt(np.mean(found**2)))
    return found / size if size > 0 else None


def _normalised(analysis: Analysis, linear: Linear) -> Float64 | None:
    """The scale of the InstanceNormalization that alone reads an operator's output; None without one."""
    reader = analysis.sole_consumer(linear.node.outputs[0])
    if reader is None or reader.op_type != "InstanceNormalization" or reader.domain not in ("", "ai.onnx"):
        return None
    value = reader.inputs[1]
    scale = None if value is None else analysis.constant(value)
    return None if scale is None else np.asarray(scale, np.float64)
