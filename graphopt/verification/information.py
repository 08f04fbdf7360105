"""How much a value tells of the inputs: pure NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.verification.difference import Output

TOLD_APART = 10.0
"""What other inputs change in a value has to be more than this many times what two models may differ by, or
else it tells nothing. Derived: at 1, a model that answers another input would pass; at 10, one passes that is
off by less than a tenth of what inputs change, as one channel of ten does. Outputs of networks that are fed
noise change by 0.04 of their largest value and more (ten architectures), 40 times what 1e-4 asks for."""


def change(outputs: Sequence[Output]) -> float:
    """The largest difference that other inputs make to an output, as a part of its largest value.

    Outputs of several sizes are compared where they overlap; with one input alone, its samples are, and with
    one sample the values at different places.

    Args:
        outputs: of one value, for each input.

    Returns:
        0 where nothing changes it, or nothing in it is finite; 1 where only its size does.
    """
    found = 0.0
    for one, other in _pairs([parts_of(output) for output in outputs]):
        if len(one) != len(other):
            return 1.0
        found = max((found, *(_relative(a, b) for a, b in zip(one, other, strict=True))))
    return found


def finite(output: Output) -> bool:
    """Whether all numbers of an output are finite."""
    return all(part.dtype.kind != "f" or bool(np.isfinite(part).all()) for part in parts_of(output))


def parts_of(output: Output) -> list[npt.NDArray[Any]]:
    """The arrays of a sequence, or the array that an output is."""
    return output if isinstance(output, list) else [output]


def _pairs(
    outputs: list[list[npt.NDArray[Any]]],
) -> Iterator[tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]]:
    """Outputs for inputs that follow each other; of a single input, its samples, else its places."""
    if len(outputs) > 1:
        yield from pairwise(outputs)
        return
    for part in outputs[0]:
        if part.ndim and len(part) > 1:
            yield [part[:1]], [part[1:]]
        elif part.size > 1:
            yield [part.ravel()[:-1]], [part.ravel()[1:]]


def _relative(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """How far apart two arrays are where they overlap, as a part of the largest value."""
    if one.ndim != other.ndim or (one.size == 0) != (other.size == 0):
        return 1.0
    common = tuple(slice(0, min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    one, other = one[common], other[common]
    if one.dtype.kind not in "fiubV" or one.dtype != other.dtype:
        return float(not np.array_equal(one, other))
    if not one.size:
        return 0.0
    wide = [each.astype(np.float64) for each in (one, other)]
    known = np.isfinite(wide[0]) & np.isfinite(wide[1])
    a, b = (np.where(known, each, 0.0) for each in wide)
    scale = max(float(np.abs(each).max()) for each in (a, b))
    return float(np.abs(a - b).max()) / scale if scale > 0 else 0.0
