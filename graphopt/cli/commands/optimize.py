"""``graphopt optimize``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError
from graphopt.jobs.outcome import perform, written
from graphopt.jobs.task import Task, check_files


def optimize(
    model: common.Model,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="The model to write.")
    ] = None,
    calibration: common.Calibration = None,
    preprocess: common.Preprocess = None,
    budget: common.Budget = None,
    require: common.Require = None,
    only: common.Only = None,
    skip: common.Skip = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="REWRITE.OPTION=VALUE", help="An option of a rewrite. Repeatable."),
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="NODE_GLOB", help="Rewrite only these nodes. Repeatable.")
    ] = None,
    keep: common.Keep = None,
    output: common.Outputs = None,
    aim: common.Aim = common.Aims.time,
    gate: Annotated[
        str | None, typer.Option(metavar="latency", help="Measure each changed region, drop what is slower.")
    ] = None,
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Initializers that are also inputs are constants.")
    ] = False,
    external_data: Annotated[
        common.ExternalData, typer.Option(help="Whether weights go to OUT.data.")
    ] = common.ExternalData.auto,
    dry_run: common.DryRun = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the report.")] = None,
    html: common.Html = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write a summary of the report.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE.xml", help="Write checks and gates as test results.")
    ] = None,
    metric: common.Metric = None,
    memory: common.Memory = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Make the convolutions cheaper, verify and write the result.

    Exact rewrites alone, unless a budget is given.

    Example: graphopt optimize model.onnx -o smaller.onnx --budget macs=0.7 --calibration inputs.npz
    """
    if out is None and not dry_run:
        raise InputError("optimize needs -o OUT, or --dry-run to write no model")
    options = common.parse(budget, set_, shape)
    task = Task(
        model=model,
        out=out,
        calibration=calibration,
        preprocess=preprocess,
        budget=options["budget"],
        require=require or (),
        only=common.names(only),
        skip=common.names(skip),
        at=at or (),
        keep=keep or (),
        outputs=output or (),
        set=options["set"],
        shapes=options["shapes"],
        aim=aim.value,
        gate=gate,
        freeze_initializers=freeze_initializers,
        external_data=external_data.value,
        metric=metric,
        memory=common.memory(memory),
        seed=seed,
        report=report,
        html=html,
        markdown=markdown,
        junit=junit,
    )
    check_files([task])
    if dry_run:
        task = replace(task, out=None)
    with shown(quiet=quiet, json=json):
        done = perform(task)
    with written(task, done) as made:
        if json:
            common.emit(done.face("report"))
        else:
            from graphopt.report import text

            text.report(done.result.report, made, report)
        common.summarise(lambda: done.face("markdown"))
    if done.error is not None:
        raise done.error
    return 0
