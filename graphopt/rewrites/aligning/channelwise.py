"""Operators on each channel by itself, written again for other channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.rewrites.builder import Builder
from graphopt.rewrites.patterns.channel_roles import Own, constant_slice
from graphopt.rewrites.patterns.common import attributes_of


def written(
    analysis: Analysis,
    builder: Builder,
    node: ir.Node,
    role: Own,
    index: npt.NDArray[np.int64],
    names: Mapping[ir.Value, str],
) -> str:
    """The operator on some of its channels, or on some of them several times.

    Args:
        analysis: the snapshot.
        builder: takes the operator.
        node: the operator.
        role: says where its constants have their channels.
        index: the channels, in their order.
        names: of the maps that are written again already.

    Returns:
        The local name of what it makes.
    """
    inputs = list[str | None]()
    for place, value in enumerate(node.inputs):
        array = analysis.constant(value) if place in role.constants else None
        if array is not None:
            taken = constant_slice(array, role.constants[place], index)
            inputs.append(builder.constant(taken, "channels", keep_type=True))
        else:
            inputs.append(None if value is None else names.get(value, value.name or ""))
    return builder.node(node.op_type, inputs, attributes_of(node), anchor=analysis.name(node))
