"""How many threads onnxruntime may use for one operator where nothing is timed."""

from __future__ import annotations

import os

from graphopt.errors import InputError

VARIABLE = "GRAPHOPT_THREADS"


def default() -> int:
    """``$GRAPHOPT_THREADS``; 0, where it is not set or empty, lets onnxruntime choose.

    Raises:
        InputError: the variable holds something else than a number.
    """
    given = os.environ.get(VARIABLE) or "0"
    if not (given.isascii() and given.isdigit()):
        raise InputError(f"{VARIABLE}={given}: expected a number of threads")
    return int(given)


def share(jobs: int) -> int:
    """How many of the processor's cores each of several jobs may use; 0 where there is one job."""
    if jobs == 1:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)
