"""Whether what a model makes of several samples at once are the rows that it makes of each alone.

It is not where rows of all samples are laid behind each other (a Reshape to ``[-1]`` before a ranking), nor
where samples are mixed. Figures by input are those of runs of one sample then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from graphopt.calibration.samples import Samples
from graphopt.runtime import exposure, session
from graphopt.runtime.session import Structure
from graphopt.types import Array
from graphopt.verification.difference import Difference, Output, is_class_scores
from graphopt.verification.reference import MODEL_BOUND
from graphopt.verification.verdict import bound


def by_sample(parts: Structure, ranked: Mapping[str, Collection[int | None]], samples: Samples) -> bool:
    """Tells whether values have a row for each of several samples: what the model makes of it alone.

    Args:
        parts: the model.
        ranked: values of its outermost graph, by name the axes that they are ranked along, none of which may
            hold the samples; None where they are if they are class scores by their shape.
        samples: that are run at once, and one by one.

    Returns:
        Whether all of the values do.

    Raises:
        InputError: onnxruntime can't run the model.
    """
    names = list(ranked)
    running = session.session(exposure.exposed(parts, names), optimised=True)
    together = session.run(running, samples.joined(), names)
    axes = [set(range(array.ndim)) if isinstance(array, np.ndarray) else set[int]() for array in together]
    for number, sample in enumerate(samples.cut(1)):
        alone = session.run(running, sample.joined(), names)
        for name, ours, row, left in zip(names, together, alone, axes, strict=True):
            left -= {axis for axis in left if not _holds(ours, row, axis, number, len(samples))}
            left -= _ranks(ours, ranked[name]) if left else set()
            if not left:
                return False
    return True


def _ranks(array: Array, along: Collection[int | None]) -> set[int]:
    """Axes of a value that it is ranked along."""
    scores = [1] if None in along and is_class_scores(array.shape) else []
    named = [axis for axis in along if axis is not None and -array.ndim <= axis < array.ndim]
    return {axis % array.ndim for axis in (*scores, *named)}


def _holds(together: Output, row: Output, axis: int, number: int, count: int) -> bool:
    """Whether a value of so many samples has the value of one of them at its number along an axis."""
    if row.ndim != together.ndim or (row.shape[axis], together.shape[axis]) != (1, count):
        return False
    gap = Difference()
    gap.add(row, together.take([number], axis))
    return gap.max_rel <= bound(row, MODEL_BOUND)
