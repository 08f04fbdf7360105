"""What a process that works sets up: late imports, signals that ask for the end, and a child for the work."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType

from graphopt.errors import INTERRUPTED, InputError

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""What `onnx_ir` imports for arithmetic on symbolic sizes, which is rare. SymPy takes as long as the rest."""
DIED = InputError.exit_code
"""The exit code where a model ended the process that ran it."""
GRACE = 10.0
"""Seconds that a process has to tidy up in before it is ended."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what a service or a cancelled job sends, and a terminal that was closed."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds some modules where they always are, and loads them late."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def defer(*names: str) -> None:
    """Lets modules that are not imported yet load at the first use of what is in them.

    It holds for the whole process, so that it is for a command to do, not for a library.
    """
    sys.meta_path.insert(0, _Finder(names))


def apart(work: Callable[[], int]) -> tuple[int, str]:
    """Does work in a child of this process, so that no more than the child dies of a model.

    Signals that ask for the end are handed on. The child is interrupted when this process is gone.

    Args:
        work: what is done there, at the beginning of a process that has no threads yet; its exit code.

    Returns:
        The exit code, and "". Where the child ended without one: `DIED`, and how it ended.
    """
    if not hasattr(os, "fork") or os.environ.get("GRAPHOPT_TRACEBACK"):  # a debugger wants one process
        return work(), ""
    alive, ours = os.pipe()
    ended, theirs = os.pipe()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some start their children, nobody can wait
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until there is somebody to hand them on to
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.close(ended)
        os.setpgid(0, 0)  # what a terminal sends reaches this process, and the child by it
        threading.Thread(target=_watch, args=(alive,), daemon=True).start()
        _limit_memory()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = work()
        except KeyboardInterrupt:  # before or behind the work
            code = INTERRUPTED
        with suppress(OSError):  # whoever would read it is gone
            os.write(theirs, b"1")
        os._exit(code)
    for each in (alive, theirs):
        os.close(each)
    for number in (*SIGNALS, signal.SIGTSTP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, partial(_hand_on, child))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if os.read(ended, 1):
        return code, ""
    return DIED, f"{death(code)}, most likely in onnxruntime with this model"


def death(code: int) -> str:
    """How a process ended that did not say so itself, by its exit code as `subprocess` has it."""
    if code >= 0:
        return f"crashed: its process ended with code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"crashed: killed by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"


def _hand_on(child: int, number: int, _: object) -> None:
    """Sends a child the signal that this process got; stops with it when that is Ctrl-Z."""
    with suppress(ProcessLookupError):
        os.kill(child, number)
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)


def _watch(alive: int) -> None:
    """Interrupts this process when its parent is gone, and ends it where that is of no use."""
    os.read(alive, 1)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(GRACE)
    os._exit(INTERRUPTED)


def _limit_memory() -> None:
    """Lets what asks for more memory than there is get an error; the system would kill some process."""
    import resource

    from graphopt.runtime.limits.memory import machine_bytes

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (machine_bytes(), hard))


@contextmanager
def ignored() -> Iterator[None]:
    """Lets signals that ask for the end come too late: what was written stays, and the exit code says so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ignore()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore() -> None:
    """Lets signals that ask for the end have no effect from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
