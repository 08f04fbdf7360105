"""A task done: its work, what is written of it, and how it ended.

Whatever runs a task, the command line or one of many processes, does it by these steps, so that the outcome
is the same. What is written of a task takes its place at once, or none of it does.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import ResultError, Words, as_argument, told
from graphopt.files import same_file, show, together, write_text
from graphopt.jobs import process
from graphopt.jobs.task import Task, given_inputs
from graphopt.report.faces import FACES
from graphopt.report.outcomes import Outcome

if TYPE_CHECKING:
    from graphopt.report.results import Result


@dataclass(frozen=True)
class Done:
    """What came of a task before anything is written.

    Attributes:
        result: the model, which is within what was asked for, or the best that was found.
        error: why it is not; None where it is.
        words: for the options in that.
    """

    result: Result
    error: ResultError | None = None
    words: Words = as_argument
    _made: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def exit_code(self) -> int:
        """Of the command that does this task alone."""
        return 0 if self.error is None else self.error.exit_code

    @property
    def problem(self) -> str:
        """The error's text; "" where there is none."""
        return "" if self.error is None else told(self.error, self.words)[1]

    def face(self, name: str) -> str:
        """One of `FACES`, made once.

        Raises:
            InputError: what it needs is not installed.
        """
        if name not in self._made:
            self._made[name] = FACES[name](self.result, self.problem, self.exit_code)
        return self._made[name]


def perform(task: Task, beside: int = 0) -> Done:
    """Does a task's work, and writes nothing.

    Args:
        task: what to do.
        beside: other tasks that may run at the same time and disturb what is timed.

    Raises:
        InputError: the model, the inputs or an option can't be used as given.
    """
    from graphopt import api

    error: ResultError | None = None
    try:
        result = api.optimize(
            task.model,
            calibration=given_inputs(task.calibration, task.preprocess, task.folder),
            **task.arguments(),
        )
    except ResultError as failure:
        error, result = failure, failure.result
    if beside and result.report.latency is not None:
        note = f"latency was measured beside up to {beside} other models: graphopt bench measures it alone"
        report = replace(result.report, notes=(*result.report.notes, note))
        result = replace(result, report=report)
    return Done(result, error, task.words)


@contextmanager
def written(task: Task, done: Done) -> Iterator[Path | None]:
    """Writes the reports, and the model if nothing went wrong: all of them or, on any exception, none.

    They take their places when the caller has told of them; Ctrl-C meanwhile comes too late.

    Yields:
        The model that is written, or None.

    Raises:
        InputError: a file can't be written.
    """
    out = None if done.error is not None else task.out
    with ExitStack() as stack:
        stack.enter_context(together())
        for name in FACES:
            path = getattr(task, name)
            if name == "markdown":
                path = own_summary(path)
            if path is not None:
                write_text(path, done.face(name))
        if out is not None:
            done.result.save(out, external_data=task.external_data)
        with process.ignored():
            yield out
            stack.close()


def step_summary() -> Path | None:
    """The file whose Markdown a job of GitHub Actions shows; None elsewhere."""
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(named) if named else None


def own_summary(path: Path | None) -> Path | None:
    """Where Markdown is written besides `step_summary`, to which it is added anyway."""
    summary = step_summary()
    return None if path is None or (summary is not None and same_file(path, summary)) else path


# ---------------------------------------------------------------- how it ended


def complete(task: Task, beside: int = 0) -> Outcome:
    """Does a task and writes what it asks for; whatever goes wrong is in the outcome.

    Args:
        task: what to do.
        beside: other tasks that may run at the same time.
    """
    began = time.perf_counter()
    try:
        done = perform(task, beside)
        outcome = Outcome(
            task.model,
            done.exit_code,
            done.problem,
            report=json.loads(done.face("report")),
            markdown=done.face("markdown"),
            junit=done.face("junit"),
        )
        with written(task, done) as out:
            outcome = replace(outcome, written=out)
    except Exception as failure:
        outcome = Outcome(task.model, *told(failure, task.words))
    return replace(outcome, seconds=time.perf_counter() - began)


def labels(tasks: Sequence[Task]) -> list[str]:
    """What people may call each task: its model, with what becomes of it where several have the same."""
    count = Counter(task.model for task in tasks)
    return [
        show(task.model)
        if count[task.model] == 1
        else f"{show(task.model)} → {show(task.out)}"
        if task.out is not None
        else f"{show(task.model)} ({number})"
        for number, task in enumerate(tasks, start=1)
    ]
