"""What ``graphopt run`` and ``graphopt batch`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from graphopt import task as work
from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError, SomeFailedError
from graphopt.files import reason, show, write_text

MOST = 4
"""Names of failed models in the error; the table and the report have all."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and verify, and write no model.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Write how each model ended, with its report.")
]


def run(
    tasks: Sequence[work.Task],
    *,
    jobs: int | None = None,
    folder: Path | None = None,
    dry_run: bool,
    report: Path | None,
    json: bool,
    quiet: bool,
) -> int:
    """Checks all tasks, then does them, and prints how they ended.

    Args:
        tasks: what to do.
        jobs: models at a time, each in a process of its own; None: one after the other in this one.
        folder: where models go; it is made where there is none.
        dry_run: whether no model is to be written.
        report: where the document goes.
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
    work.check_files(tasks, {} if report is None else {"--report": report})
    if dry_run:
        tasks = [replace(task, out=None) for task in tasks]
    with shown(quiet=quiet, json=json):
        outcomes = batch.in_order(tasks) if jobs is None else batch.side_by_side(tasks, jobs)
    document = documents.dumps(documents.batch(outcomes, jobs or 1))
    if report is not None:
        write_text(report, document)
    if json:
        common.emit(document)
    else:
        text.batch(outcomes)
    names = work.labels(tasks)
    _summarise(names, outcomes)
    failed = [name for name, outcome in zip(names, outcomes, strict=True) if not outcome]
    if failed:
        more = f" and {len(failed) - MOST} more" if len(failed) > MOST else ""
        message = f"{len(failed)} of {len(tasks)} models failed: {', '.join(failed[:MOST])}{more}"
        raise SomeFailedError(message, work.exit_code(outcomes))
    return 0


def _summarise(names: Sequence[str], outcomes: Sequence[work.Outcome]) -> None:
    """Adds what became of each model to the page of a job, where it is one of GitHub."""
    summary = work.step_summary()
    if summary is None:
        return
    from graphopt.report import markdown

    parts = [o.markdown or markdown.failed(name, o.error) for name, o in zip(names, outcomes, strict=True)]
    common.append(summary, "\n\n".join(parts))


def _make(folder: Path) -> None:
    """Makes the folder for the results, where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{show(folder)}: can't be made: {reason(error)}") from error
