"""``graphopt run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import common, many


def _schema(wanted: bool) -> None:
    if wanted:
        from graphopt.jobs import recipe
        from graphopt.report import json as documents

        common.emit(documents.dumps(recipe.schema()))
        raise typer.Exit


@common.takes("recipe dry_run report markdown junit json quiet schema")
def run(
    *,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.")],
    dry_run: bool,
    report: many.Report = None,
    markdown: many.Markdown = None,
    junit: many.Junit = None,
    json: bool,
    quiet: bool,
    schema: Annotated[
        bool,
        typer.Option("--schema", callback=_schema, is_eager=True, help="Print the JSON schema of recipes."),
    ] = False,
) -> int:
    """Do what a recipe says of one or many models.

    They come one after the other, and one that fails or crashes does not stop the others. The exit code is 0
    when all are done, else the gravest of theirs: 70, then 1, 2 and 3.

    Example: graphopt run recipe.toml
    """
    from graphopt.jobs.recipe import read

    return many.run(
        read(recipe),
        dry_run=dry_run,
        files={"--report": report, "--markdown": markdown, "--junit": junit},
        json=json,
        quiet=quiet,
    )
