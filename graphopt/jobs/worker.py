"""A process that does one task: reads it from standard input, and answers on standard output.

The answer is an `Outcome`; before it, if anybody wants to see them, texts say what is at hand. What is
printed meanwhile, by the user's own measure or by a library, goes to standard error. The process is
interrupted as by Ctrl-C when its standard input ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import IO

from graphopt import progress
from graphopt.errors import INTERRUPTED
from graphopt.jobs import process
from graphopt.jobs.outcome import complete
from graphopt.jobs.task import Task
from graphopt.report.outcomes import Outcome

OFTEN = 0.2
"""Seconds between two texts, at least."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker reads.

    Attributes:
        task: what to do.
        beside: other tasks that may run at the same time.
        seen: whether anybody sees how far it is.
    """

    task: Task
    beside: int
    seen: bool


def main() -> None:
    """Does the task; ends the process."""
    process.defer(*process.DEFERRED)
    asked = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    answers = Answers(os.fdopen(os.dup(sys.stdout.fileno()), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        given: Asked = pickle.load(asked)
        threading.Thread(target=_watch, args=(asked,), daemon=True).start()
        with progress.shown_by(_Teller(answers)) if given.seen else nullcontext():
            outcome = complete(given.task, given.beside)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answers.send(outcome)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the parent wants no more, or is gone
        os._exit(INTERRUPTED)
    sys.stderr.flush()
    os._exit(0)  # freeing millions of objects one by one takes long


def _watch(asked: IO[bytes]) -> None:
    """Interrupts the work when the parent closes its end, or is gone."""
    asked.read()
    if hasattr(signal, "pthread_kill"):  # which also ends a wait
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


class Answers:
    """Sends one after the other what threads have to say, and nothing after the outcome.

    Args:
        file: where to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._over = False

    def send(self, answer: str | Outcome) -> None:
        """Sends an answer whole."""
        with self._lock:
            if self._over:
                return
            self._over = isinstance(answer, Outcome)
            pickle.dump(answer, self._file)
            self._file.flush()


class _Teller:
    """Sends what is at hand in the innermost step, now and then.

    Args:
        answers: what sends it.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._open: dict[int, str] = {}
        self._next = 0.0
        self._count = 0

    def begin(self, name: str, total: int | None) -> int:
        """A step begins."""
        with self._lock:
            self._count += 1
            self._open[self._count] = name
            self._tell(name)
            return self._count

    def at(self, handle: int, done: int, item: str) -> None:
        """An item of it is at hand."""
        with self._lock:
            self._tell(f"{self._open[handle]} {item}".rstrip())

    def end(self, handle: int) -> None:
        """The step is over."""
        with self._lock:
            del self._open[handle]
            if self._open:
                self._tell(next(reversed(self._open.values())))

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + OFTEN
        self._answers.send(text)
