"""Ends runs of a model that take too long, as one of a Loop without an end would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graphopt.errors import TooLongError

if TYPE_CHECKING:
    import onnxruntime

RUN_SECONDS = 600.0
"""Seconds after which a run is ended. Derived: a network of 1,000 GMACs on 32 inputs takes 320 s at the
100 GMACs a second of two cores; what takes double that has no end in sight."""
OFTEN = 0.5
"""Seconds between two looks at what runs; no result depends on it."""

_ran: dict[onnxruntime.RunOptions, float] = {}
"""Seconds of what runs, by its looks: time in which this process was stopped is not its."""
_lock = threading.Lock()
_thread: threading.Thread | None = None


@contextmanager
def limited() -> Iterator[onnxruntime.RunOptions]:
    """The options of a run, which ends with an error of onnxruntime after `RUN_SECONDS`.

    Raises:
        TooLongError: it was ended.
    """
    import onnxruntime as ort

    global _thread
    options = ort.RunOptions()
    options.log_severity_level = 4
    with _lock:
        _ran[options] = 0.0
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_watch, daemon=True)
            _thread.start()
    try:
        yield options
    except Exception as error:
        if not options.terminate:
            raise
        raise TooLongError(
            f"onnxruntime was stopped after {RUN_SECONDS:g} s at a single run of it"
        ) from error
    finally:
        with _lock:
            del _ran[options]


def _watch() -> None:
    """Looks at what runs, until nothing does."""
    global _thread
    while True:
        time.sleep(OFTEN)
        with _lock:
            if not _ran:
                _thread = None
                return
            for options in _ran:
                _ran[options] += OFTEN
                if _ran[options] > RUN_SECONDS:
                    options.terminate = True
