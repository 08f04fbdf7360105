"""``graphopt sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.files import write_text
from graphopt.jobs.task import Task, check_files, given_inputs


@common.takes(
    "model calibration preprocess sample_axis only skip options at keep outputs memory html json quiet "
    "shapes seed"
)
def sensitivity(
    *,
    model: Path,
    calibration: Path | None,
    preprocess: str | None,
    html: Path | None,
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Show which layers the quality hangs on.

    Each is probed by itself: what the outputs keep where it has a small error, and where it is halved. No
    budget is needed.

    Example: graphopt sensitivity model.onnx --calibration inputs.npz
    """
    inputs = given_inputs(calibration, preprocess)
    if inputs is None:
        raise InputError("sensitivity is measured on inputs: give --calibration")
    check_files([Task(model=model, calibration=calibration, preprocess=preprocess, html=html)])
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.sensitivity(model, inputs, **asked)
    if html is not None:
        from graphopt.report import html as pages

        write_text(html, pages.sensitivity(found))
    common.tell("sensitivity", found, json=json)
    return 0
