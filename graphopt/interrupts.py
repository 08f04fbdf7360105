"""Ctrl-C and its like: the signals that ask a process to end, and the moments in which they come too late."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what a service or a cancelled job sends, and a terminal that was closed."""


@contextmanager
def ignored() -> Iterator[None]:
    """Lets them come too late: what was written stays, and the exit code has to say so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ignore()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore() -> None:
    """Lets them have no effect from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
