"""Many tasks, so many at once as asked for, each in a process of its own.

A process a task, because a pool whose workers go on to the next task is lost when one of them crashes. The
parent holds the other end of each child's standard input: when that closes, on Ctrl-C or when the parent is
gone, the child is interrupted as by Ctrl-C, tidies up and ends. Children are no part of the terminal's group
of processes, so that Ctrl-C does not reach them twice.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from typing import IO

from graphopt import progress
from graphopt.errors import INTERNAL, InputError, Named, StoppedError
from graphopt.files import reason
from graphopt.jobs import process
from graphopt.jobs.outcome import complete
from graphopt.jobs.task import Task
from graphopt.jobs.worker import Asked
from graphopt.report.outcomes import Outcome
from graphopt.runtime.limits import threads
from graphopt.runtime.limits.memory import default_bytes

START = (
    "import sys; sys.path[:] = sys.argv[1].split(sys.argv[2]); from graphopt.jobs.worker import main; main()"
)
"""What a child runs: this process's path first, whatever lies in the current folder."""
SEPARATOR = "\n"
"""Between the folders of the path."""
SAID = 160
"""Characters of a crashed child's last words that are told."""


def refuse_timed(tasks: Sequence[Task], jobs: int) -> None:
    """Refuses several jobs where something is decided by latency, which they disturb.

    Raises:
        InputError: a task's result depends on measured latency.
    """
    for task in tasks if jobs > 1 else ():
        if task.timed:
            with task.blamed(""):
                raise InputError(
                    f"{task.timed} needs a machine that does nothing else: use {Named('jobs', 1)}"
                )


def here(task: Task) -> Outcome:
    """Does a task in this process.

    Raises:
        StoppedError: Ctrl-C came.
    """
    try:
        return complete(task)
    except KeyboardInterrupt as error:
        raise _interrupted((), 1) from error


def side_by_side(tasks: Sequence[Task], jobs: int) -> list[Outcome]:
    """Does the tasks in processes of their own, and returns their outcomes in the order of the tasks.

    Args:
        tasks: what to do.
        jobs: how many run at once.

    Raises:
        StoppedError: Ctrl-C came; the processes have ended by then.
    """
    jobs = max(1, min(jobs, len(tasks)))
    if jobs > 1:
        share = default_bytes() // jobs
        tasks = [task if task.memory else replace(task, memory=share) for task in tasks]
    workers = Workers(jobs)
    done: dict[int, Outcome] = {}
    with ThreadPoolExecutor(jobs, "graphopt-batch") as pool:
        futures = {
            pool.submit(progress.carried(workers.complete), task): number for number, task in enumerate(tasks)
        }
        try:
            finished: Iterator[Future[Outcome]] = as_completed(futures)
            for future in progress.track(finished, "models", total=len(tasks)):
                done[futures[future]] = future.result()
        except BaseException as error:
            for future in futures:
                future.cancel()
            workers.stop(futures)
            if not isinstance(error, KeyboardInterrupt):
                raise
            ended = [f.result() for f in futures if f.done() and not f.cancelled() and not f.exception()]
            raise _interrupted(ended, len(tasks)) from error
    return [done[number] for number in range(len(tasks))]


def _interrupted(done: Iterable[Outcome], count: int) -> StoppedError:
    written = sum(1 for outcome in done if outcome.written is not None)
    return StoppedError(f"interrupted; {written or 'none'} of {count} models written")


class Workers:
    """The children that run at the moment. `complete` is called from several threads."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping = False

    def complete(self, task: Task) -> Outcome:
        """Does a task in a child, and returns the outcome, also when the child crashes."""
        began = time.perf_counter()
        with progress.told(task.model.name) as tell, tempfile.TemporaryFile() as words:
            try:
                child = self._start(words)
            except OSError as error:
                return Outcome(task.model, INTERNAL, f"no process could be started: {reason(error)}")
            try:
                outcome, code = self._ask(child, task, tell)
            finally:
                with self._lock:
                    self._running.discard(child)
            if outcome is None:
                seconds = time.perf_counter() - began
                outcome = Outcome(task.model, process.DIED, _end(code, words), seconds)
        return outcome

    def _start(self, words: IO[bytes]) -> subprocess.Popen[bytes]:
        """A child, whose words go to a file."""
        environment = {**os.environ, threads.VARIABLE: str(threads.default() or threads.share(self._jobs))}
        with self._lock:
            if self._stopping:
                raise InterruptedError
            child = subprocess.Popen(
                [sys.executable, "-c", START, SEPARATOR.join(sys.path), SEPARATOR],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=environment,
                start_new_session=True,
            )
            self._running.add(child)
        return child

    def _ask(
        self, child: subprocess.Popen[bytes], task: Task, tell: Callable[[str], None] | None
    ) -> tuple[Outcome | None, int]:
        """What a child answers, if it does, and its exit code; its standard input stays open until then."""
        assert child.stdin is not None and child.stdout is not None
        outcome = None
        with child.stdout:
            try:
                pickle.dump(Asked(task, self._jobs - 1, tell is not None), child.stdin)
                child.stdin.flush()
                while not isinstance(answer := pickle.load(child.stdout), Outcome):
                    if tell is not None:
                        tell(answer)
                outcome = answer
            except Exception:  # it is gone, or being stopped: whatever half an answer is taken for
                outcome = None
            child.stdout.read()
        code = child.wait()
        _close(child)
        return outcome, code

    def stop(self, futures: Iterable[Future[Outcome]]) -> None:
        """Interrupts all children, and kills those that do not end."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for child in running:
            _close(child)
        try:
            wait(futures, process.GRACE)
        finally:  # also at once, on a second Ctrl-C
            for child in running:
                if child.poll() is None:
                    child.kill()


def _close(child: subprocess.Popen[bytes]) -> None:
    """Closes a child's standard input."""
    try:
        if child.stdin is not None:
            child.stdin.close()
    except OSError:  # what it was still to read
        pass


def _end(code: int, words: IO[bytes]) -> str:
    """How a child ended that gave no answer, and its last words."""
    text = process.death(code)
    words.seek(0)
    said = [line for line in words.read().decode(errors="replace").splitlines() if line.strip()]
    if os.environ.get("GRAPHOPT_TRACEBACK"):
        return "\n".join([text, *said])
    last = " ".join(said[-1].split()) if said else ""
    return f"{text}: {last[:SAID]}" if last else text
