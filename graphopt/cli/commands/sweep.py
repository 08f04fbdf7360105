"""``graphopt sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.files import write_text
from graphopt.jobs.task import Task, check_files, given_inputs


@common.takes(
    "model calibration preprocess sample_axis budgets only skip options at keep outputs aim metric "
    "confidence memory html json quiet shapes seed"
)
def sweep(
    *,
    model: Path,
    calibration: Path | None,
    preprocess: str | None,
    metric: str | None,
    html: Path | None,
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Show the trade-off between cost and quality, measured.

    A network for each of several budgets, in one run.

    Example: graphopt sweep model.onnx --calibration inputs.npz --budgets 0.8,0.6,0.4
    """
    inputs = given_inputs(calibration, preprocess)
    if inputs is None:
        raise InputError("sweep measures quality on inputs: give --calibration")
    read = Task(model=model, calibration=calibration, preprocess=preprocess, metric=metric, html=html)
    check_files([read])
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.sweep(model, inputs, metric=metric, **asked)
    if html is not None:
        from graphopt.report import html as pages

        write_text(html, pages.sweep(found))
    common.tell("sweep", found, json=json)
    return 0
