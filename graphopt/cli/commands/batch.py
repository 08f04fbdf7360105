"""``graphopt batch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import common, many
from graphopt.errors import InputError
from graphopt.files import show
from graphopt.jobs.task import Task


def batch(
    models: Annotated[list[Path], typer.Argument(metavar="RECIPE|MODELS...", help="A recipe, or models.")],
    out_dir: Annotated[
        Path | None, typer.Option("-o", "--out-dir", metavar="DIR", help="Where models are written.")
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", metavar="N", min=1, help="Models at a time.")] = 1,
    calibration: common.Calibration = None,
    preprocess: common.Preprocess = None,
    budget: common.Budget = None,
    require: common.Require = None,
    only: common.Only = None,
    skip: common.Skip = None,
    dry_run: common.DryRun = False,
    report: many.Report = None,
    markdown: many.Markdown = None,
    junit: many.Junit = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    seed: common.Seed = 0,
) -> int:
    """Optimize many models, several at a time.

    Each has a process of its own, and one that fails or crashes does not stop the others. The exit code is 0
    when all are done, else the gravest of theirs: 70, then 1, 2 and 3.

    Example: graphopt batch a.onnx b.onnx --out-dir smaller --jobs 2
    """
    said = {
        "--out-dir": out_dir,
        "--calibration": calibration,
        "--preprocess": preprocess,
        "--budget": budget,
        "--require": require,
        "--only": only,
        "--skip": skip,
        "--seed": seed,
    }
    options = common.parse(budget, None, None)
    recipe = next((path for path in models if path.suffix.lower() == ".toml"), None)
    if recipe is not None:
        if len(models) > 1:
            raise InputError(f"{show(recipe)}: a recipe stands alone; it names its models")
        tasks = _of_recipe(recipe, [option for option, value in said.items() if value])
    else:
        tasks = [
            Task(
                model=model,
                out=None if out_dir is None else out_dir / model.name,
                calibration=calibration,
                preprocess=preprocess,
                budget=options["budget"],
                require=require or (),
                only=common.names(only),
                skip=common.names(skip),
                seed=seed,
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


def _of_recipe(path: Path, said: list[str]) -> list[Task]:
    """The tasks of a recipe, with which no other option says what is to be done."""
    if said:
        raise InputError(f"{said[0]} goes with models: a recipe says it itself")
    from graphopt.jobs import recipe

    return recipe.read(path)
