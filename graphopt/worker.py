"""A process that does one task: reads it from standard input, and answers on standard output.

It is interrupted as by Ctrl-C when its standard input ends. What is printed meanwhile, by the user's own
measure or by a library, goes to standard error, so that the answer is all that the parent reads.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from typing import IO

from graphopt import __main__ as command
from graphopt.deferred import defer
from graphopt.errors import INTERRUPTED


def main() -> None:
    """Does the task; ends the process."""
    defer(*command.DEFERRED)
    asked = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task, beside = pickle.load(asked)
        threading.Thread(target=_watch, args=(asked,), daemon=True).start()
        from graphopt.task import complete

        outcome = complete(task, beside)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        pickle.dump(outcome, answer)
        answer.flush()
    except (KeyboardInterrupt, EOFError):
        os._exit(INTERRUPTED)
    except BrokenPipeError:  # the parent is gone
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
