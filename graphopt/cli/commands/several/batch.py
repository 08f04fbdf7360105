"""``graphopt batch``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import common, many
from graphopt.errors import InputError, Named
from graphopt.files import show
from graphopt.jobs.task import Task


@common.takes(
    "context models out_dir jobs calibration preprocess budget require confidence force floor only skip "
    "dry_run report markdown junit json quiet seed"
)
def batch(
    *,
    context: typer.Context,
    models: Annotated[list[Path], typer.Argument(metavar="RECIPE|MODELS...", help="A recipe, or models.")],
    out_dir: Annotated[
        Path | None, typer.Option("-o", "--out-dir", metavar="DIR", help="Where models are written.")
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Models at a time.")] = 1,
    dry_run: bool,
    report: many.Report = None,
    markdown: many.Markdown = None,
    junit: many.Junit = None,
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Optimize many models, several at a time.

    Each has a process of its own, and one that fails or crashes does not stop the others. The exit code is 0
    when all are done, else the gravest of theirs: 70, then 1, 2 and 3.

    Example: graphopt batch a.onnx b.onnx --out-dir smaller --jobs 2
    """
    recipe = next((path for path in models if path.suffix.lower() == ".toml"), None)
    if recipe is not None:
        if len(models) > 1:
            raise InputError(f"{show(recipe)}: a recipe stands alone; it names its models")
        tasks = _of_recipe(recipe, context, ("out_dir", *asked))
    else:
        tasks = [
            Task(
                model=model,
                out=None if out_dir is None else out_dir / model.name,
                **asked,
                said={"": str(model), "out": f"the result of {model}"},
            )
            for model in models
        ]
        if out_dir is None and not dry_run:
            raise InputError("batch needs --out-dir DIR, or --dry-run to write no model")
    return many.run(
        tasks,
        jobs=jobs,
        folder=out_dir,
        dry_run=dry_run,
        files={"--report": report, "--markdown": markdown, "--junit": junit},
        json=json,
        quiet=quiet,
    )


def _of_recipe(path: Path, context: typer.Context, options: Iterable[str]) -> list[Task]:
    """The tasks of a recipe, with which none of these options says what is to be done."""
    said = next((name for name in options if _is_said(context, name)), None)
    if said is not None:
        raise InputError(f"{Named(said)} goes with models: a recipe says it itself")
    from graphopt.jobs import recipe

    return recipe.read(path)


def _is_said(context: typer.Context, option: str) -> bool:
    """Whether an option has been typed, be it its default."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
