"""What a process that does the work sets up: imports put off, and signals that ask it to end."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")
"""What `onnx_ir` imports for arithmetic on symbolic sizes, which is rare. SymPy takes as long as the rest."""
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
