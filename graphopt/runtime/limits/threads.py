"""How many threads onnxruntime may use for one operator where nothing is timed, and NumPy for a product."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphopt.errors import InputError

VARIABLE = "GRAPHOPT_THREADS"
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
"""By which the user says how many threads the library takes that multiplies matrices for NumPy."""


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


class _Single:
    """One thread for NumPy's products for as long as anyone is within, whichever thread came first."""

    def __init__(self) -> None:
        self._lock, self._within = threading.Lock(), 0
        self._limits: Any = None

    def enter(self) -> None:
        with self._lock:
            self._within += 1
            if self._within == 1:
                self._limits = _limited()

    def leave(self) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None


_single = _Single()


@contextmanager
def single() -> Iterator[None]:
    """NumPy's products take one thread within, and as many as before after it.

    Its threads wait for each other on a busy machine, and mostly cost more than they give; results depend on
    their number, too, in the last bits. It takes the extra ``threads``; without it, and where the user set
    one of `BLAS_VARIABLES`, nothing happens.
    """
    _single.enter()
    try:
        yield
    finally:
        _single.leave()


def _limited() -> Any:
    """What gives the threads back; None where they are left as they are."""
    if any(os.environ.get(name) for name in BLAS_VARIABLES):
        return None
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return None
    return threadpool_limits(1, user_api="blas")
