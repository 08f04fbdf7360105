"""``graphopt sweep``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.files import write_text
from graphopt.jobs.task import Task, check_files, given_inputs


def sweep(
    model: common.Model,
    calibration: common.Calibration = None,
    preprocess: common.Preprocess = None,
    budgets: Annotated[
        str, typer.Option(metavar="0.9,0.8,…", help="Parts of the MACs to make networks for.")
    ] = "0.9,0.8,0.7,0.6,0.5,0.4,0.3",
    only: common.Only = None,
    skip: common.Skip = None,
    output: common.Outputs = None,
    metric: common.Metric = None,
    memory: common.Memory = None,
    html: common.Html = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Show the trade-off between cost and quality, measured.

    A network for each of several budgets, in one run.

    Example: graphopt sweep model.onnx --calibration inputs.npz --budgets 0.8,0.6,0.4
    """
    inputs = given_inputs(calibration, preprocess)
    if inputs is None:
        raise InputError("sweep measures quality on inputs: give --calibration")
    try:
        parts = [float(part) for part in budgets.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--budgets {budgets}: expected numbers such as 0.8,0.6") from None
    read = Task(model=model, calibration=calibration, preprocess=preprocess, metric=metric, html=html)
    check_files([read])
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.sweep(
            model,
            inputs,
            parts,
            only=common.names(only),
            skip=common.names(skip),
            outputs=output or (),
            shapes=common.shapes(shape),
            seed=seed,
            metric=metric,
            memory=common.memory(memory),
        )
    if html is not None:
        from graphopt.report import html as pages

        write_text(html, pages.sweep(found))
    common.tell("sweep", found, json=json)
    return 0
