"""The error of each fitted layer, measured on held-out inputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.calibration import statistics
from graphopt.calibration.inputs import Calibration, affordable
from graphopt.numerics.spread import Spread
from graphopt.runtime.limits.memory import chunks

COPIES = 6
"""Arrays of the size of an output that comparing it takes: derived, of both networks, with partners, and one
in float64."""
ERROR_MACS = 2e12
"""Multiply-accumulates that measuring the errors of layers may take, about: derived, 35 seconds at
`time_model.DENSE_MACS_PER_SECOND`."""


FEWEST_INPUTS = 16
"""Inputs that they are measured on at the least: derived, the mean of 16 squares is off by √(2/16), a third,
which `pipeline.approximate.FACTOR` allows for."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer to compare in two networks.

    Attributes:
        name: of its operator in the original.
        output: name of its output, the same in both networks.
        partner: name of the value that the output is added to and whose loss it makes up for; "" for none.
        axis: of the output, that of the channels.
    """

    name: str
    output: str
    partner: str = ""
    axis: int = 1


@np.errstate(over="ignore", invalid="ignore")  # an error that is none fails
def layer_errors(
    original: ir.Model,
    compressed: ir.Model,
    layers: Sequence[Layer],
    calibration: Calibration,
    memory: int,
    macs: int | None = None,
    decided: Sequence[str] = (),
) -> dict[str, float]:
    """E‖y − ŷ‖² / Var(y) of layers in the whole network, on held-out inputs, by name.

    y is the output in the original, ŷ in the compressed network, in which the layers before are compressed
    as well. Where a layer makes up for what the other side r of a sum has lost, y + r − r̂ stands for y.

    Args:
        original: the original.
        compressed: the network in which all the layers are compressed.
        layers: the layers.
        calibration: the inputs; the held-out ones are run.
        memory: bytes of outputs to hold at once.
        macs: of the original for one input, where known: very large networks are measured on fewer inputs.
        decided: names of the values that the compressed network is given as the original decides them, so
            that both have the same rows.

    Returns:
        A relative error for each layer; 1 where it has other rows all the same.
    """
    if not layers:
        return {}
    count = affordable(ERROR_MACS, macs, 2, FEWEST_INPUTS, calibration.samples)
    samples = calibration.held_out[:count]
    sizes = statistics.bytes_of(original, [layer.output for layer in layers], calibration, samples)
    if not calibration.fixed:  # fewer inputs at once, rather than the whole network again for some layers
        batch = int(memory / max(1, COPIES * sum(sizes.values())))
        calibration = replace(calibration, batch=min(max(batch, 1), calibration.batch))
        sizes = {name: size * calibration.batch for name, size in sizes.items()}
    errors: dict[str, float] = {}
    # Those whose outputs, of both networks and with partners, fit into memory together.
    for chunk in chunks(layers, lambda layer: COPIES * sizes[layer.output], memory):
        names = sorted({n for layer in chunk for n in (layer.output, layer.partner) if n})
        noise, spread = dict.fromkeys(chunk, 0.0), {layer: Spread(layer.axis) for layer in chunk}
        read = list(dict.fromkeys((*names, *decided)))
        told, exacts = itertools.tee(statistics.stream(original, read, calibration, samples))
        given = ({name: batch[name] for name in decided} for batch in told) if decided else ()
        approximates = statistics.stream(compressed, names, calibration, samples, given)
        for exact, approximate in zip(exacts, approximates, strict=True):
            for layer in chunk:
                wanted = exact[layer.output].astype(np.float64)
                compared = [name for name in (layer.output, layer.partner) if name]
                alike = all(exact[name].shape == approximate[name].shape for name in compared)
                if alike and layer.partner:
                    wanted += exact[layer.partner].astype(np.float64) - approximate[layer.partner]
                gap = wanted - approximate[layer.output] if alike else wanted
                noise[layer] += float(np.vdot(gap, gap))
                spread[layer].add(wanted)
        for layer in chunk:
            errors[layer.name] = noise[layer] / spread[layer].total if spread[layer].total else 0.0
    return errors
