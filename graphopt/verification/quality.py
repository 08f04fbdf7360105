"""How near an approximate model comes to the original, measured on inputs that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt import progress
from graphopt.calibration.inputs import Calibration
from graphopt.runtime import session
from graphopt.runtime.session import Feeds
from graphopt.types import Quality
from graphopt.verification.difference import Difference, agreement


def measure(
    reference: ir.Model, candidate: ir.Model, calibration: Calibration, feeds: Feeds, kept: Sequence[str] = ()
) -> Quality:
    """Measures the candidate against the reference, both as onnxruntime optimises them.

    Args:
        reference: the original.
        candidate: the rewritten model.
        calibration: how to batch.
        feeds: the inputs to measure on.
        kept: names of the outputs that count; all when empty.

    Returns:
        The lowest agreement and the lowest SQNR (dB) of any output, and the number of inputs.
    """
    names = [v.name or "" for v in reference.graph.outputs if not kept or v.name in kept]
    sessions = [session.session(session.structure(m), optimised=True) for m in (reference, candidate)]
    gaps = {name: Difference() for name in names}
    equal: dict[str, float] = {}
    count = 0
    for part in progress.track(list(calibration.batches(feeds)), "inputs"):
        size = min(len(array) for array in part.values())
        count += size
        pairs = zip(*(session.run(s, part, names) for s in sessions), strict=True)
        for name, (exact, approximate) in zip(names, pairs, strict=True):
            gaps[name].add(exact, approximate)
            same = agreement(exact, approximate)
            if same is not None:
                equal[name] = equal.get(name, 0.0) + same * size
    lowest = min(equal.values()) / count if equal else None
    return Quality(lowest, min(gap.sqnr for gap in gaps.values()), count)
