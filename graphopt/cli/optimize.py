"""``graphopt optimize``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import BudgetError, GraphOptError, InputError, VerificationError

if TYPE_CHECKING:
    from graphopt.report import Report
    from graphopt.result import Result


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
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NODE_GLOB", help="Never rewrite these nodes. Repeatable.")
    ] = None,
    output: common.Outputs = None,
    aim: Annotated[
        common.Aim, typer.Option(help="Exact rewrites that are expected to be faster, or all that save MACs.")
    ] = common.Aim.time,
    gate: Annotated[
        str | None, typer.Option(metavar="latency", help="Measure each changed region, drop what is slower.")
    ] = None,
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Initializers that are also inputs are constants.")
    ] = False,
    external_data: Annotated[
        common.ExternalData, typer.Option(help="Whether weights go to OUT.data.")
    ] = common.ExternalData.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and verify, and write no model.")] = False,
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
    """Make the convolutions cheaper, verify the result, and write it.

    Exact rewrites alone, unless a budget is given.

    Example: graphopt optimize model.onnx -o smaller.onnx --budget macs=0.7 --calibration inputs.npz
    """
    if out is None and not dry_run:
        raise InputError("optimize needs -o OUT, or --dry-run to write no model")
    common.check_writable(out, report, model)
    common.check_page(html, model, out, report)
    common.check_text(markdown, model, out, report, html, calibration)
    common.check_text(junit, model, out, report, html, markdown, calibration)
    options = common.parse(budget, set_, shape)
    error: GraphOptError | None = None
    try:
        from graphopt import api

        with shown(quiet=quiet, json=json):
            result: Result = api.optimize(
                model,
                options["budget"],
                common.calibration(calibration, preprocess),
                aim=aim.value,
                only=common.names(only),
                skip=common.names(skip),
                at=at or (),
                keep=keep or (),
                outputs=output or (),
                options=options["set"],
                shapes=options["shapes"],
                seed=seed,
                gate=gate,
                freeze_initializers=freeze_initializers,
                metric=metric,
                memory=common.memory(memory),
                require=require or (),
            )
    except (BudgetError, VerificationError) as failure:
        error, result = failure, failure.result
    written = None if dry_run or error else out
    with ExitStack() as stack:
        if written is not None:
            result.save(written, external_data=external_data.value)
            stack.enter_context(common.uninterrupted())
        problem = "" if error is None else str(error)
        _show(result.report, 0 if error is None else error.exit_code, report, json, written)
        if html is not None:
            from graphopt.report import html as pages

            common.write(html, pages.report(result, problem))
        _summarise(result.report, problem, markdown, junit)
    if error is not None:
        raise error
    return 0


def _show(report: Report, code: int, file: Path | None, json: bool, out: Path | None) -> None:
    """Prints the report, and writes it where it was asked for."""
    from graphopt.report import json as documents
    from graphopt.report import text

    if json or file is not None:
        document = documents.dumps(documents.report(report, code))
        if file is not None:
            common.write(file, document)
        if json:
            common.emit(document)
    if not json:
        text.report(report, out)


def _summarise(report: Report, problem: str, markdown: Path | None, junit: Path | None) -> None:
    """Writes what a pipeline shows, the Markdown also where a job of GitHub asks for it."""
    shown = common.step_summary()
    if markdown is not None or shown is not None:
        from graphopt.files import same_file
        from graphopt.report import markdown as summaries

        text = summaries.report(report, problem)
        if markdown is not None and not (shown is not None and same_file(markdown, shown)):
            common.write(markdown, text)
        if shown is not None:
            common.append(shown, text)
    if junit is not None:
        from graphopt.report import junit as results

        common.write(junit, results.report(report, problem))
