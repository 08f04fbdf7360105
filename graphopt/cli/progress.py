"""The progress display of the command: on standard error, after a second, gone when the work is."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt import progress
from graphopt.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds that a command may take before it shows how far it is."""
REFRESH = 5
"""Times a second that the display is drawn."""
NAME, BAR = 34, 12
"""Columns for the layer's name and for the bar: with the other columns 80 are enough."""


@dataclass
class _Step:
    name: str
    total: int | None
    done: int = 0
    item: str = ""
    task: TaskID | None = None


class Terminal:
    """Shows the open steps, one a line, as soon as the work takes longer than `PATIENCE`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[int, _Step] = {}
        self._handles = itertools.count()
        self._progress: Progress | None = None
        self._over = threading.Event()
        self._waiting = threading.Thread(target=self._wait, name="graphopt-progress", daemon=True)
        self._waiting.start()

    def begin(self, name: str, total: int | None) -> int:
        """Opens a line."""
        with self._lock:
            handle = next(self._handles)
            self._steps[handle] = _Step(name, total)
            self._draw(self._steps[handle])
        return handle

    def at(self, handle: int, done: int, item: str) -> None:
        """Moves a line's bar.

        Args:
            handle: what `begin` returned.
            done: items that are done.
            item: name of the one at hand.
        """
        with self._lock:
            found = self._steps[handle]
            found.done, found.item = done, item
            if self._progress is not None and found.task is not None:
                self._progress.update(found.task, completed=done, item=_tail(item))

    def end(self, handle: int) -> None:
        """Closes a line."""
        with self._lock:
            found = self._steps.pop(handle)
            if self._progress is not None and found.task is not None:
                self._progress.remove_task(found.task)

    def close(self) -> None:
        """Takes the display off the terminal."""
        self._over.set()
        self._waiting.join()
        if self._progress is not None:
            self._progress.stop()

    def _wait(self) -> None:
        if self._over.wait(PATIENCE):
            return
        made = _lines()
        with self._lock:
            self._progress = made
            for found in self._steps.values():
                self._draw(found)
            made.start()

    def _draw(self, found: _Step) -> None:
        if self._progress is not None:
            found.task = self._progress.add_task(
                printable(found.name), total=found.total, completed=found.done, item=_tail(found.item)
            )


@contextmanager
def shown(*, quiet: bool, json: bool) -> Iterator[None]:
    """Shows the progress of what is called within, unless it should be silent or nobody would see it.

    What is printed meanwhile, such as by the user's own measure, goes to standard error: it is no result.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if quiet or json or not sys.stderr.isatty():
            yield
        else:
            with _displayed():
                yield


@contextmanager
def _displayed() -> Iterator[None]:
    """Shows the progress of what is called within."""
    display = Terminal()
    try:
        with progress.shown_by(display):
            yield
    finally:
        display.close()


def _lines() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(BAR),
        TextColumn("{task.fields[item]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=Console(stderr=True, highlight=False, emoji=False),
        refresh_per_second=REFRESH,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _tail(name: str) -> str:
    """The end of a layer's name: there it differs from its neighbours'."""
    shown = printable(name)
    return shown if len(shown) <= NAME else f"…{shown[1 - NAME :]}"
