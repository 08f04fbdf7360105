"""What ``graphopt run`` and ``graphopt batch`` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import SomeFailedError, gravest
from graphopt.files import make_folders, together, write_text
from graphopt.jobs import process
from graphopt.jobs.outcome import labels, own_summary
from graphopt.jobs.task import Task, check_files, check_options
from graphopt.report.outcomes import Outcome

MOST = 4
"""Names of failed models in the error; the table and the report have all."""

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
    tasks: Sequence[Task],
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
        jobs: models at a time, each in a process of its own; None: one at a time, and a single one in this
            process, where there is nothing else to lose.
        folder: where models go; it is made where there is none.
        dry_run: whether no model is to be written.
        files: where the document, the Markdown and the test results go, by option.
        json: whether it is printed.
        quiet: whether no progress is shown.

    Returns:
        The exit code.

    Raises:
        InputError: a task can't be done as given; then none was begun.
        SomeFailedError: a task failed.
    """
    from graphopt.jobs import batch
    from graphopt.report import json as documents
    from graphopt.report import text

    check_options(tasks)
    batch.refuse_timed(tasks, jobs or 1)
    wanted = {option: path for option, path in files.items() if path is not None}
    with ExitStack() as undo:
        if folder is not None:
            make_folders(folder, undo)
        check_files(tasks, wanted)
        if not dry_run or any(_within(path, folder) for path in wanted.values()):
            undo.pop_all()
    if dry_run:
        tasks = [replace(task, out=None) for task in tasks]
    with shown(quiet=quiet, json=json):
        if jobs is None and len(tasks) == 1:
            outcomes = [batch.here(tasks[0])]
        else:
            outcomes = batch.side_by_side(tasks, jobs or 1)
    names = labels(tasks)
    with process.ignored():
        document = documents.dumps(documents.batch(outcomes, jobs or 1))
        _write(names, outcomes, document, wanted)
        if json:
            common.emit(document)
        else:
            text.batch(names, outcomes)
    failed = [name for name, outcome in zip(names, outcomes, strict=True) if not outcome]
    if failed:
        more = f" and {len(failed) - MOST} more" if len(failed) > MOST else ""
        message = f"{len(failed)} of {len(tasks)} models failed: {', '.join(failed[:MOST])}{more}"
        raise SomeFailedError(message, gravest(outcome.exit_code for outcome in outcomes))
    return 0


def _within(path: Path, folder: Path | None) -> bool:
    """Whether a file is in a folder, or further below."""
    return folder is not None and folder.resolve() in path.resolve().parents


def _write(
    names: Sequence[str],
    outcomes: Sequence[Outcome],
    document: str,
    files: Mapping[str, Path],
) -> None:
    """Writes what was asked for of all models, the Markdown also where a job of GitHub asks for it."""
    from graphopt.report import junit, markdown

    summary = own_summary(files.get("--markdown"))
    with together():
        if "--report" in files:
            write_text(files["--report"], document)
        if "--junit" in files:
            write_text(files["--junit"], junit.batch(names, outcomes))
        if summary is not None:
            write_text(summary, markdown.batch(names, outcomes))
    common.summarise(lambda: markdown.batch(names, outcomes))
