"""``graphopt verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.jobs.task import given_inputs


@common.takes(
    "reference candidate calibration preprocess sample_axis budget confidence outputs freeze_initializers "
    "json quiet shapes seed"
)
def verify(
    *,
    reference: Path,
    candidate: Path,
    calibration: Path | None,
    preprocess: str | None,
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Compare two models by running both.

    They have to be equal up to rounding, or as close as a quality budget asks.

    Example: graphopt verify model.onnx smaller.onnx --calibration inputs.npz --budget agreement=0.98
    """
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.verify(reference, candidate, given_inputs(calibration, preprocess), **asked)
    common.tell("verification", found, json=json)
    return 0 if found else 1
