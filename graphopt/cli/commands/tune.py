"""``graphopt tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.files import check_output
from graphopt.jobs.task import Task, check_files, given_inputs


@common.takes(
    "reference candidate out calibration preprocess sample_axis minutes steps weights outputs memory "
    "resume keep_best external_data json quiet seed"
)
def tune(
    *,
    reference: Path,
    candidate: Path,
    out: Path | None,
    calibration: Path | None,
    preprocess: str | None,
    external_data: Literal["auto", "always", "never"],
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Fit all weights of a network to the original.

    Together, to what the original does of the same inputs; without labels, and without a training framework.
    The network may be from anywhere.

    Example: graphopt tune model.onnx smaller.onnx -o tuned.onnx --calibration inputs.npz --minutes 10
    """
    inputs = given_inputs(calibration, preprocess)
    if inputs is None:
        raise InputError("tune fits a network to inputs: give --calibration")
    if out is None:
        raise InputError("tune needs -o OUT")
    check_files(
        [Task(model=model, out=out, calibration=calibration, preprocess=preprocess) for model in [candidate]]
    )
    check_output(out, [reference])
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.tune(reference, candidate, inputs, **asked)
    found.save(out, external_data=external_data)
    common.tell("tuning", found, out, json=json)
    return 0
