"""What ``graphopt run`` and ``graphopt batch`` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from graphopt import interrupts
from graphopt import task as work
from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError, SomeFailedError
from graphopt.files import reason, same_file, show, write_text

MOST = 4
"""Names of failed models in the error; the table and the report have all."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and verify, and write no model.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Write how each model ended, with its report.")
]
Markdown = Annotated[
    Path | None, typer.Option(metavar="FILE.md", help="Write a summary of each model's report.")
]
Junit = Annotated[
    Path | None, typer.Option(metavar="FILE.xml", help="Write test results, a suite for each model.")
]


def run(
    tasks: Sequence[work.Task],
    *,
    jobs: int | None = None,
    folder: Path | None = None,
    dry_run: bool,
    files: Mapping[str, Path | None],
    json: bool,
    quiet: bool,
) -> int:
    """Checks all tasks, then does them, and prints how they ended.

    Args:
        tasks: what to do.
        jobs: models at a time, each in a process of its own; None: one after the other in this one.
        folder: where models go; it is made where there is none.
        dry_run: whether no model is to be written.
        files: where the document, the Markdown and the test results go, by option.
        json: whether it is printed.
        quiet: whether no progress is shown.

    Raises:
        InputError: a task can't be done as given; then none was begun.
        SomeFailedError: a task failed.
    """
    from graphopt import batch
    from graphopt.report import json as documents
    from graphopt.report import text

    work.check_options(tasks)
    batch.check(tasks, jobs or 1)
    if folder is not None:
        _make(folder)
    wanted = {option: path for option, path in files.items() if path is not None}
    work.check_files(tasks, wanted)
    if dry_run:
        tasks = [replace(task, out=None) for task in tasks]
    with shown(quiet=quiet, json=json):
        outcomes = batch.in_order(tasks) if jobs is None else batch.side_by_side(tasks, jobs)
    names = work.labels(tasks)
    with interrupts.ignored():
        document = documents.dumps(documents.batch(outcomes, jobs or 1))
        _write(names, outcomes, document, wanted)
        if json:
            common.emit(document)
        else:
            text.batch(outcomes)
    failed = [name for name, outcome in zip(names, outcomes, strict=True) if not outcome]
    if failed:
        more = f" and {len(failed) - MOST} more" if len(failed) > MOST else ""
        message = f"{len(failed)} of {len(tasks)} models failed: {', '.join(failed[:MOST])}{more}"
        raise SomeFailedError(message, work.exit_code(outcomes))
    return 0


def _write(
    names: Sequence[str],
    outcomes: Sequence[work.Outcome],
    document: str,
    files: Mapping[str, Path],
) -> None:
    """Writes what was asked for of all models, the Markdown also where a job of GitHub asks for it."""
    from graphopt.report import junit, markdown

    if "--report" in files:
        write_text(files["--report"], document)
    if "--junit" in files:
        write_text(files["--junit"], junit.batch(names, outcomes))
    summary = work.step_summary()
    if "--markdown" in files and not (summary is not None and same_file(files["--markdown"], summary)):
        write_text(files["--markdown"], markdown.batch(names, outcomes))
    if summary is not None:
        common.append(summary, markdown.batch(names, outcomes))


def _make(folder: Path) -> None:
    """Makes the folder for the results, where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{show(folder)}: is a file; name a folder") from None
    except OSError as error:
        raise InputError(f"{show(folder)}: can't be made: {reason(error)}") from error
