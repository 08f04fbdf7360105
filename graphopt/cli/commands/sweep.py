"""``graphopt sweep``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.files import together, write_text
from graphopt.jobs.outcome import own_summary
from graphopt.jobs.task import Task, check_files, given_inputs


@common.takes(
    "model calibration preprocess sample_axis budgets only skip options at keep outputs aim metric "
    "freeze_initializers confidence memory report html markdown json quiet shapes seed"
)
def sweep(
    *,
    model: Path,
    calibration: Path | None,
    preprocess: str | None,
    metric: str | None,
    report: Path | None,
    html: Path | None,
    markdown: Path | None,
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
    read = Task(model=model, calibration=calibration, preprocess=preprocess, metric=metric)
    check_files([replace(read, report=report, html=html, markdown=markdown)])
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.sweep(model, inputs, metric=metric, **asked)
    from graphopt.report import json as documents
    from graphopt.report import markdown as summaries

    with together():
        if report is not None:
            write_text(report, documents.dumps(documents.sweep(found)))
        if html is not None:
            from graphopt.report import html as pages

            write_text(html, pages.sweep(found))
        own = own_summary(markdown)
        if own is not None:
            write_text(own, summaries.sweep(found))
    common.summarise(lambda: summaries.sweep(found))
    common.tell("sweep", found, json=json)
    return 0
